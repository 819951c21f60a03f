"""Terms of use: every licence and citation behind an artifact, and what brought it in.

Artifacts say so in their metadata, as ``licence`` and ``citation``, several joined with ``"; "``. What is
made from them repeats it; here each statement is listed once, where it came in.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter

from db.artifacts import Artifact, titled
from db.errors import ForbiddenLicence
from db.lineage import ancestors

SEPARATOR = "; "
ENTRY = re.compile(r"@\w+\s*\{\s*([^\s,{}]+)\s*,")
# Braces count in BibTeX even where TeX has them escaped, so they are spelled out.
IN_BIBTEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "{": r"\textbraceleft{}",
        "}": r"\textbraceright{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        **{special: f"\\{special}" for special in "#$%&_"},
    }
)


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What an artifact states that nothing behind it does. Imported files are listed even if silent."""

    artifact: Artifact
    licences: Sequence[str]
    citations: Sequence[str]


def upstream(artifact_id: str) -> list[Terms]:
    """The terms that came in with an artifact or with anything it was made from, oldest first.

    Raises:
        UnknownArtifact: no artifact has this full id.
    """
    lineage = ancestors(artifact_id)
    inputs = {
        id_: {edge.artifact_id for edge in lineage.used.get(lineage.made_by.get(id_, ""), [])}
        for id_ in lineage.artifacts
    }
    # What each artifact and all behind it state, in fragments: what joins and sorts them tears BibTeX apart.
    stated: dict[str, set[tuple[str, str]]] = {}
    found = []
    for id_ in TopologicalSorter(inputs).static_order():
        artifact = lineage.artifacts[id_]
        behind: set[tuple[str, str]] = set().union(*(stated[parent] for parent in inputs[id_]))
        new = {
            field: [
                text
                for text in separate(str(artifact.metadata.get(field) or ""))
                if not _fragments(field, text) <= behind
            ]
            for field in ("licence", "citation")
        }
        stated[id_] = behind.union(*(_fragments(field, text) for field in new for text in new[field]))
        if any(new.values()) or id_ not in lineage.made_by:
            found.append(Terms(artifact=artifact, licences=new["licence"], citations=new["citation"]))
    return sorted(found, key=lambda terms: (terms.artifact.created_at, terms.artifact.id))


def check(artifact_id: str, forbidden: Iterable[str]) -> None:
    """Refuse an artifact if any licence behind it is forbidden.

    A forbidden licence is found as a whole word, in upper or lower case: ``ASL`` in "ASL (academic use
    only)", ``CC-BY-NC`` in "CC-BY-NC-4.0", but ``GPL`` not in "LGPL-3.0". ``unknown`` may be forbidden too.

    Raises:
        UnknownArtifact: no artifact has this full id.
        ForbiddenLicence: names every artifact that brings in a forbidden licence.
    """
    words = [re.compile(rf"(?<!\w){re.escape(name)}(?!\w)", re.IGNORECASE) for name in forbidden]
    terms = upstream(artifact_id)
    brought = [
        f"'{licence}' by {titled(term.artifact)}"
        for term in terms
        for licence in term.licences
        if any(word.search(licence) for word in words)
    ]
    if brought:
        raise ForbiddenLicence(
            f"{artifact_id[:12]} comes under a forbidden licence, brought in: {', '.join(brought)}; "
            "start from something else, or change what is forbidden"
        )


def bibtex(terms: Iterable[Terms]) -> str:
    """The citations as one BibTeX file: entries as they are, plain text as ``@misc``, each once.

    The key of plain text is its first word with digits of its sha256, so that it never changes. An entry with
    a key that another entry has gets such digits behind it.
    """
    entries: dict[str, str] = {}
    for citation in dict.fromkeys(text for term in terms for text in term.citations):
        digits = hashlib.sha256(citation.encode()).hexdigest()[:8]
        given = ENTRY.match(citation) if _closed(citation) else None
        if given is None:
            ascii_only = unicodedata.normalize("NFKD", citation).encode("ascii", "ignore").decode()
            word = re.search(r"\w+", ascii_only)
            key = f"{word[0].lower() if word else 'cited'}-{digits}"
            entries[key] = f"@misc{{{key},\n  note = {{{citation.translate(IN_BIBTEX)}}}\n}}"
        elif given[1] in entries:
            key = f"{given[1]}-{digits}"
            entries[key] = f"{citation[: given.start(1)]}{key}{citation[given.end(1) :]}"
        else:
            entries[given[1]] = citation
    return "\n\n".join(entries.values())


def separate(text: str) -> list[str]:
    """The statements in one metadata value: parted at ``"; "``, but not inside the braces of BibTeX."""
    parts = [""]
    for part in text.split(SEPARATOR):
        joined = f"{parts[-1]}{SEPARATOR}{part}"
        if parts[-1].startswith("@") and not _closed(parts[-1]):
            parts[-1] = joined
        else:
            parts.append(part)
    return list(dict.fromkeys(part.strip() for part in parts if part.strip()))


def _fragments(field: str, text: str) -> set[tuple[str, str]]:
    return {(field, part.strip()) for part in text.split(SEPARATOR)}


def _closed(text: str) -> bool:
    return text.count("{") == text.count("}")
