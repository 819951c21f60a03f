from collections.abc import Callable

import pytest

from db.artifacts import Artifact
from db.errors import ForbiddenLicence, UnknownArtifact
from db.licences import Terms, bibtex, check, separate, upstream

Import = Callable[..., Artifact]
Make = Callable[..., str]

ENTRY = """@article{gfn2,
  title = {An accurate; and broad method},
  year = 2019
}"""


def outline(terms: list[Terms]) -> list[tuple[str, list[str], list[str]]]:
    return [(term.artifact.name, list(term.licences), list(term.citations)) for term in terms]


def test_each_statement_is_listed_where_it_came_in(imported: Import, made: Make) -> None:
    labels = imported("labels", "labels", licence="CC-BY-4.0", citation=f"{ENTRY}; Doe, 2020")
    foundation = imported("foundation", "foundation", licence="ASL (academic use only)", citation="Roe, 2023")
    silent = imported("structures", "structures")
    parts = made("parts", {"labels": labels.id}, licence="CC-BY-4.0", citation=f"{ENTRY}; Doe, 2020")
    # As joined, parted and sorted on the way: the entry is torn.
    cited = "; ".join(sorted(f"{ENTRY}; Doe, 2020; Roe, 2023".split("; ")))
    teacher = made(
        "teacher",
        {"data": [parts, silent.id], "model": foundation.id},
        licence="ASL (academic use only); CC-BY-4.0",
        citation=cited,
    )
    adapted = made("adapted", {"teacher": teacher}, licence="CC-BY-4.0; MIT", citation=cited)
    assert outline(upstream(adapted)) == [
        ("labels", ["CC-BY-4.0"], [ENTRY, "Doe, 2020"]),
        ("foundation", ["ASL (academic use only)"], ["Roe, 2023"]),
        ("structures", [], []),
        ("adapted", ["MIT"], []),
    ]


def test_two_files_under_one_licence_are_both_listed(imported: Import, made: Make) -> None:
    inputs = {name: imported(name, name, licence="MIT").id for name in ("labels", "foundation")}
    names = [name for name, *_ in outline(upstream(made("teacher", inputs, licence="MIT")))]
    assert names == ["labels", "foundation"]


def test_unknown(url: str) -> None:
    with pytest.raises(UnknownArtifact, match="no artifact has the id"):
        upstream("0" * 64)


@pytest.mark.parametrize("forbidden", ["ASL", "asl", "academic", "ASL (academic use only)", "CC-BY-NC"])
def test_a_forbidden_licence_names_what_brings_it_in(forbidden: str, imported: Import, made: Make) -> None:
    inputs = {
        "labels": imported("labels", "labels", licence="CC-BY-NC-4.0").id,
        "model": imported("foundation", "foundation", licence="ASL (academic use only)").id,
    }
    teacher = made("teacher", inputs, licence="ASL (academic use only); CC-BY-NC-4.0")
    brings = "labels" if forbidden == "CC-BY-NC" else "model"
    with pytest.raises(
        ForbiddenLicence, match=rf"'.*' by dataset '\w+' \({inputs[brings][:12]}\); start from"
    ) as caught:
        check(teacher, ["GPL-3.0", forbidden])
    assert "teacher" not in str(caught.value)


@pytest.mark.parametrize("forbidden", [[], ["GPL"], ["MI"], ["X-11"], ["unknown"]])
def test_other_licences_pass(forbidden: list[str], imported: Import) -> None:
    check(imported("labels", licence="LGPL-3.0; MIT; X11").id, forbidden)


def test_unknown_licences_can_be_forbidden(imported: Import) -> None:
    with pytest.raises(ForbiddenLicence, match="'unknown' by dataset 'labels'"):
        check(imported("labels", licence="unknown").id, ["unknown"])


def test_entries_are_kept_and_text_becomes_misc(imported: Import) -> None:
    text = "Kovács & Müller, 50 % of {x}_1^2 ~ #3, \\alpha"
    terms = upstream(imported("labels", citation=f"{ENTRY}; {text}; {ENTRY}").id)
    first, second = bibtex(terms).split("\n\n")
    assert first == ENTRY
    head, note, end = second.splitlines()
    assert head == "@misc{kovacs-b519a9b6,"
    assert note == (
        r"  note = {Kovács \& Müller, 50 \% of \textbraceleft{}x\textbraceright{}\_1\textasciicircum{}2 "
        r"\textasciitilde{} \#3, \textbackslash{}alpha}"
    )
    assert end == "}"


def test_keys_do_not_depend_on_what_else_is_cited_and_never_clash(imported: Import) -> None:
    other = ENTRY.replace("2019", "2020")
    alone = bibtex(upstream(imported("1", "one", citation="Doe, 2020").id))
    both = bibtex(upstream(imported("2", "two", citation=f"Doe, 2021; Doe, 2020; {ENTRY}; {other}; 王").id))
    entries = both.split("\n\n")
    assert entries[1] == alone
    keys = [entry[entry.index("{") + 1 : entry.index(",")] for entry in entries]
    assert len(set(keys)) == 5
    assert keys[2] == "gfn2"
    assert keys[3].startswith("gfn2-")
    assert keys[4].startswith("cited-")


@pytest.mark.parametrize("broken", ["@article{gfn2, title = {", "@article no braces", "@string{x = {y}}"])
def test_what_is_no_entry_is_quoted_as_text(broken: str, imported: Import) -> None:
    entry = bibtex(upstream(imported("labels", citation=broken).id))
    assert entry.startswith("@misc{")
    assert entry.count("{") == entry.count("}")


def test_separate() -> None:
    assert separate("") == []
    assert separate(" MIT;  CC0; MIT; ") == ["MIT", "CC0"]
    assert separate(f"a; {ENTRY}; b{{; c") == ["a", ENTRY, "b{", "c"]
