"""The card that lies beside exports: Markdown with a YAML head, as model hubs show it."""

import re
from collections.abc import Mapping
from typing import Any

import yaml


def card(content: Mapping[str, Any]) -> str:
    """What a potential is and may be used for, its files, and how each is used; `content` is card.json's."""
    licence, name = str(content["licence"]), content["name"]
    terms = (
        {"license": licence.lower()}
        if re.fullmatch(r"[\w.-]+", licence)
        else {"license": "other", "license_name": licence}
    )
    head = {
        **terms,
        "tags": ["machine-learned-interatomic-potential", "molecular-dynamics", "temper"],
        "model_name": name,
    }
    facts = {
        "level of theory": content["level_of_theory"],
        "elements": ", ".join(content["elements"]),
        "cutoff": f"{content['cutoff']:g} Å",
        "licence": licence,
        "citation": content["citation"] or "none given",
        "made from": f"checkpoint with sha256 `{content['source_sha256']}`, head {content['head']}",
        "made with": ", ".join(f"{package} {number}" for package, number in content["versions"].items()),
    }
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---",
        f"# {name}",
        "An interatomic potential, exported by Temper. Energies are totals in eV, lengths in Å, forces in "
        "eV/Å, stresses in eV/Å³ with ASE's sign.",
        _table(["", ""], [[key, _plain(value)] for key, value in facts.items()]),
        "## Files",
        "Each export was opened again and compared with the checkpoint in float64, on a droplet and two "
        "skewed periodic boxes; these are the largest differences.",
        _table(
            ["format", "file", "energy, eV/atom", "forces, eV/Å", "stress, eV/Å³"],
            [
                [one["format"], f"`{one['file']}`", *(f"{x:.1e}" for x in one["deviation"].values())]
                for one in content["exports"]
            ],
        ),
        *(f"Left out: {_plain(reason)}." for reason in content["left_out"]),
        *(f"## {one['format']}\n\n{one['usage']}" for one in content["exports"]),
        "## sha256",
        "\n".join(f"- `{file}`: `{digest}`" for file, digest in content["files"].items()),
    ]
    return "\n\n".join(parts) + "\n"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(words: str) -> str:
    """Words within a line or a cell: no HTML, no cell of its own."""
    return re.sub(r"\s+", " ", words).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
