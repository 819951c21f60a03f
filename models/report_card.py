"""The model card of a checkpoint: Markdown with a YAML head, as model hubs show it."""

import re

import yaml
from ase.data import chemical_symbols

from models.report import ReportData, number
from models.report_checks import Acceptance
from models.templates import template


def model_card(data: ReportData, acceptance: Acceptance) -> str:
    """What a checkpoint is, how to use it, what it was made from, and what its acceptance found.

    `acceptance` is one of the report's. The text is Markdown; names that came from outside are escaped.
    """
    slug = re.sub(r"[^\w.-]+", "-", f"{data.title}-{acceptance.name}").strip("-")
    return _CARD.render(
        data=data,
        acceptance=acceptance,
        head=yaml.safe_dump(_head(data, slug), sort_keys=False, allow_unicode=True).rstrip(),
        file=slug,
        e0s=data.campaign.e0s if data.campaign else None,
        symbols=chemical_symbols,
        unmeasured=[
            (measured.title, measured.quantities[name].words)
            for measured in acceptance.checks
            for name, figure in measured.finding.figures.items()
            if figure.value is None
        ],
    )


def _head(data: ReportData, slug: str) -> dict[str, object]:
    licences = list(dict.fromkeys(data.licences))
    one = licences[0].lower() if len(licences) == 1 and re.fullmatch(r"[\w.-]+", licences[0]) else None
    terms = (
        {"license": one} if one else {"license": "other", "license_name": " and ".join(licences) or "unknown"}
    )
    return {
        **terms,
        "library_name": "mace-torch",
        "tags": ["machine-learned-interatomic-potential", "mace", "ase", "molecular-dynamics", "temper"],
        "model_name": slug,
    }


def _text(words: str) -> str:
    """Words within a line or a cell of a table: no HTML, no link or picture, no cell of its own."""
    plain = re.sub(r"\s+", " ", words).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`\[\]|])", r"\\\1", plain)


_CARD = template("report_card.md.j2", {"number": number, "text": _text}, is_html=False)
