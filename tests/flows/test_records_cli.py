"""The record as a person asks it, on a real database and store."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from db import aliases, artifacts, steps
from flows.cli import app

ENTRY = "@article{gfn2, title = {An accurate and broad method}}"


def temper(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def said(*arguments: str) -> str:
    """What a command that ends well prints."""
    result = temper(*arguments)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return result.stdout


def refused(*arguments: str) -> str:
    """The one line of a command that ends as bad input should."""
    result = temper(*arguments)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    return line


@pytest.fixture
def ids(tmp_path: Path, temper_home: Path) -> dict[str, str]:
    """Labels, a foundation, a specialist of both, promoted, and a student of it, promoted too."""
    found = {}
    for role, metadata in {
        "labels": {"licence": "CC-BY-4.0", "citation": f"{ENTRY}; Doe & Roe, 2020"},
        "foundation": {"licence": "ASL (academic use only)"},
    }.items():
        (tmp_path / role).write_text(role)
        found[role] = artifacts.import_file(tmp_path / role, role, f"{role} [of salt]", metadata).id

    def compute(kind: str, inputs: Mapping[str, str]) -> str:
        def write(work: Path) -> dict[str, steps.Output]:
            (work / kind).write_text(kind)
            said = {"licence": "ASL (academic use only); CC-BY-4.0"}
            return {"model": steps.Output(path=work / kind, kind="checkpoint", name=kind, metadata=said)}

        return steps.once(kind, 1, {}, inputs, write, seed=7).outputs["model"]

    found["specialist"] = compute("specialist", found)
    found["student"] = compute("student", {"teacher": found["specialist"]})
    aliases.promote("salt@champion", found["specialist"], reason="accurate")
    aliases.promote("salt@engine", found["student"], reason="fast")
    return found


def test_impact_lists_what_was_made_and_what_stands_on_it(ids: dict[str, str]) -> None:
    header, *rows, count = said("impact", ids["labels"][:12]).splitlines()
    assert header.split() == ["kind", "name", "id", "made", "by", "aliases"]
    assert [row.split() for row in rows] == [
        ["labels", "labels", "[of", "salt]", ids["labels"][:12]],
        ["checkpoint", "specialist", ids["specialist"][:12], "specialist", "salt@champion"],
        ["checkpoint", "student", ids["student"][:12], "student", "salt@engine"],
    ]
    assert count == "Made from it: 2. Aliases that stand on it: 2."


def test_impact_as_json(ids: dict[str, str]) -> None:
    first, second = json.loads(said("impact", "salt@champion", "--json"))
    assert (first["id"], first["aliases"], first["step"]) == (ids["specialist"], ["salt@champion"], None)
    assert (second["id"], second["aliases"], second["tainted"]) == (ids["student"], ["salt@engine"], None)
    assert second["made_from"] == [ids["specialist"]]
    assert (second["step"]["kind"], second["step"]["seed"]) == ("student", 7)


def test_a_retraction_says_which_aliases_stand_on_it_and_is_shown_everywhere(ids: dict[str, str]) -> None:
    first, _, *names = said("retract", ids["labels"][:8], "--reason", "wrong [units]").splitlines()
    assert first == (
        f"Retracted: labels labels [of salt] {ids['labels'][:12]}. "
        f"Made from it: 2 (temper impact {ids['labels'][:12]})."
    )
    assert [name.split()[0] for name in names] == ["salt@champion", "salt@engine"]
    assert said("aliases").count("made from labels 'labels [of salt]'") == 2
    assert said("aliases").count(": wrong [units]") == 2
    tree = said("lineage", "salt@engine")
    assert tree.count("made from labels") == 2
    assert tree.count("retracted on") == 3
    node = json.loads(said("lineage", "salt@engine", "--json"))
    assert node["tainted"].endswith(": wrong [units]")
    (specialist,) = node["parents"]
    assert {parent["role"]: parent["tainted"] is None for parent in specialist["parents"]} == {
        "labels": False,
        "foundation": True,
    }
    marks = [row.split()[-1] for row in said("impact", ids["foundation"]).splitlines()[1:-1]]
    assert marks == [ids["foundation"][:12], "tainted", "tainted"]
    assert "retracted" in said("impact", ids["labels"]).splitlines()[1]


def test_what_is_reinstated_is_as_before(ids: dict[str, str]) -> None:
    before = said("aliases"), said("lineage", "salt@engine")
    said("retract", ids["labels"], "--reason", "wrong units")
    said("retract", "salt@champion", "--reason", "diverges")
    assert said("reinstate", "salt@champion").splitlines()[1].startswith("It is still made from labels ")
    assert said("reinstate", ids["labels"], "--reason", "they were right") == (
        f"Reinstated: labels labels [of salt] {ids['labels'][:12]}.\n"
    )
    assert (said("aliases"), said("lineage", "salt@engine")) == before
    assert "is not retracted" in refused("reinstate", ids["labels"])


def test_what_nothing_stands_on_is_retracted_without_a_warning(ids: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "other").write_text("other")
    other = artifacts.import_file(tmp_path / "other", "labels", "other").id
    assert len(said("retract", other, "--reason", "wrong units").splitlines()) == 1


def test_a_retraction_needs_a_reason(ids: dict[str, str]) -> None:
    assert temper("retract", ids["labels"]).exit_code == 2
    assert "needs a reason" in refused("retract", ids["labels"], "--reason", " ")


@pytest.mark.parametrize(
    ("form", "begins"),
    [
        ("tree", "checkpoint student "),
        ("json", '{\n  "role": null,'),
        ("mermaid", "flowchart TD\n"),
        ("dot", "digraph lineage {\n"),
        ("prov", '{\n  "prefix": {'),
        ("ro-crate", '{\n  "@context": ['),
    ],
)
def test_every_format_to_the_terminal_and_to_a_file(
    form: str, begins: str, ids: dict[str, str], tmp_path: Path
) -> None:
    printed = said("lineage", "salt@engine", "--format", form)
    assert printed.startswith(begins)
    for name in ("specialist", "labels", "foundation"):
        assert name in printed
    file = tmp_path / "lineage"
    assert said("lineage", "salt@engine", "--format", form, "--output", str(file)) == ""
    assert file.read_text(encoding="utf-8") == printed


def test_json_is_short_for_a_format(ids: dict[str, str]) -> None:
    assert said("lineage", "salt@engine", "--json") == said("lineage", "salt@engine", "--format", "json")


def test_an_output_that_cannot_be_written_is_one_clear_error(ids: dict[str, str], tmp_path: Path) -> None:
    result = temper("lineage", "salt@engine", "--output", str(tmp_path / "absent" / "file"))
    assert result.exit_code == 2
    assert "cannot be written" in result.stderr
    assert "Traceback" not in result.stderr


def test_licences_by_what_brought_them_in(ids: dict[str, str]) -> None:
    assert said("licence", "salt@engine").splitlines() == [
        f"labels labels [of salt] {ids['labels'][:12]}",
        "  licence: CC-BY-4.0",
        f"  cite: {ENTRY}",
        "  cite: Doe & Roe, 2020",
        f"foundation foundation [of salt] {ids['foundation'][:12]}",
        "  licence: ASL (academic use only)",
    ]


def test_bibtex_is_nothing_but_entries(ids: dict[str, str]) -> None:
    first, second = said("licence", "salt@engine", "--bibtex").split("\n\n")
    assert first == ENTRY
    assert second.startswith("@misc{doe-")
    assert r"Doe \& Roe, 2020" in second


def test_a_file_without_a_licence_is_said(tmp_path: Path, temper_home: Path) -> None:
    (tmp_path / "labels").write_text("labels")
    id_ = artifacts.import_file(tmp_path / "labels", "labels", "labels").id
    assert said("licence", id_).splitlines()[1:] == ["  states no licence"]
    assert said("licence", id_, "--bibtex").strip() == ""


@pytest.mark.parametrize("command", ["impact", "retract", "reinstate", "licence", "lineage"])
def test_something_unknown_is_one_line(command: str, temper_home: Path) -> None:
    more = ("--reason", "wrong") if command == "retract" else ()
    assert "no alias 'salt@engine'" in refused(command, "salt@engine", *more)
