"""Campaign files of strangers: what they try to run, to read and to fill the memory with."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from models.campaign import Campaign
from models.campaign_files import load, load_campaign
from models.campaign_names import CampaignError
from models.datasets import write_structures
from models.permissions import NotPermitted, Permissions

STRANGERS = Permissions(from_person=False)
UNITS = {"energy": "eV", "forces": "eV/Å"}
SECRET = "the-first-line-of-a-file-of-mine"

BOMBS = {
    "aliases of aliases": "\n".join(
        [
            'a0: &a0 ["x","x","x","x","x","x","x","x","x","x"]',
            *(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)),
        ]
    ),
    "an alias of itself": "a: &a [*a]",
    "deep nesting": "[" * 20_000,
    "an endless number": "a: " + "9" * 100_000,
    "a date that is none": "a: 2024-99-99",
    "no text": "a: \udcff",
    "a huge file": f"a: {'x' * 300_000}",
}


@pytest.fixture
def content(tmp_path: Path, labelled_waters: Any) -> dict[str, Any]:
    """A campaign in a folder of its own, with a file of somebody else beside the folder."""
    folder = tmp_path / "campaign"
    folder.mkdir()
    write_structures(folder / "labels.extxyz", labelled_waters)
    (tmp_path / "mine.extxyz").write_text(f"{SECRET}\n")
    labels = {"path": "labels.extxyz", "level_of_theory": "GFN2-xTB", "units": UNITS}
    return {"name": "water", "labels": labels, "candidates": [{"kind": "naive"}]}


def save(content: Any, tmp_path: Path) -> Path:
    path = tmp_path / "campaign" / "water.yaml"
    path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return path


@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_one_error(text: str, tmp_path: Path) -> None:
    path = tmp_path / "bomb.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(CampaignError, match=r"bomb\.yaml: ") as caught:
        load(path)
    assert len(str(caught.value)) < 1000


def test_what_yaml_says_twice_can_still_be_said_once(content: dict[str, Any], tmp_path: Path) -> None:
    content["further"] = {"pbe": {**content["labels"], "level_of_theory": "PBE"}}
    path = save(content, tmp_path)
    assert "*id001" in path.read_text()  # the units, which both share
    assert load(path).further["pbe"].units.energy == "eV"


@pytest.mark.parametrize(
    "tag", ["python/object/apply:os.mkdir", "python/object/new:os.mkdir", "python/name:os.mkdir"]
)
def test_python_in_yaml_is_not_run(tag: str, tmp_path: Path) -> None:
    path = tmp_path / "evil.yaml"
    path.write_text(f"name: !!{tag} [{tmp_path}/made]\n")
    with pytest.raises(CampaignError, match="not valid YAML"):
        load(path)
    assert not (tmp_path / "made").exists()


def test_every_path_of_a_campaign_is_looked_at() -> None:
    """A new field with a path has to be known to `models.campaign_files._paths`, which confines it."""
    definitions = Campaign.model_json_schema()["$defs"]
    found = {
        (section, name)
        for section, schema in definitions.items()
        for name, field in schema.get("properties", {}).items()
        if "'format': 'path'" in repr(field)
    }
    sections = {"Labels", "FurtherLabels", "ReferenceTrajectories", "ReferenceStructures", "Replay", "Starts"}
    assert found == {(section, "path") for section in sections}


def naming(content: dict[str, Any], place: str, path: str) -> dict[str, Any]:
    """The content with a path at a place; what else the section needs is filled in."""
    *groups, section, key = place.split(".")
    level = content["labels"]["level_of_theory"]
    filled: dict[str, Any] = {"path": path} if section in ("replay", "starts") else {"level_of_theory": level}
    if section == "reference":
        filled["temperature"] = 300.0
    if section in ("labels", "pbe"):
        filled = dict(content["labels"])
    target = content
    for group in groups:
        target = target.setdefault(group, {"calculator": {"kind": "tblite"}} if group == "rounds" else {})
    target[section] = {"name": path} if section == "foundation" else {**filled, key: path}
    return content


PLACES = [
    *("labels.path", "reference.path", "replay.path", "further.pbe.path", "evidence.minima.path"),
    *("rounds.starts.path", "foundation.name"),
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("way", ["up", "absolute", "link"])
def test_no_path_leaves_the_folder_of_its_campaign(
    place: str, way: str, content: dict[str, Any], tmp_path: Path
) -> None:
    target = tmp_path / "mine.extxyz"
    (tmp_path / "campaign" / "link.extxyz").symlink_to(target)
    path = {"up": "../mine.extxyz", "absolute": str(target), "link": "link.extxyz"}[way]
    written = save(naming(content, place, path), tmp_path)
    with pytest.raises(NotPermitted, match=rf"{place}: .*TEMPER_DATA_ROOTS={tmp_path}$") as caught:
        load_campaign(str(written))
    assert SECRET not in str(caught.value)
    allowed = load(written, permissions=Permissions(roots=[tmp_path]))
    assert allowed.name == "water"


def test_the_person_at_the_command_line_names_any_file(content: dict[str, Any], tmp_path: Path) -> None:
    path = str(save(content, tmp_path))
    labels = tmp_path / "elsewhere.extxyz"
    labels.write_bytes((tmp_path / "campaign" / "labels.extxyz").read_bytes())
    given: dict[str, Any] = {"labels": str(labels), "level_of_theory": "PBE"}
    assert load_campaign(path, **given).labels.path == labels

    inside = {"roots": [tmp_path / "campaign"], "from_person": False}
    for asked in (
        given,
        {"fields": {"labels.path": str(labels)}},
        {"fields": {"labels": {**content["labels"], "path": str(labels)}}},
        {"fields": {"foundation": {"name": str(labels)}}},
        {"foundation": str(labels)},
    ):
        with pytest.raises(NotPermitted, match="is in no folder that a campaign may read; have its folder"):
            load_campaign(path, **asked, permissions=Permissions(**inside))
    everywhere = Permissions(roots=[tmp_path], from_person=False)
    assert load_campaign(path, **given, permissions=everywhere).labels.path == labels


def test_a_form_starts_shipped_campaigns_and_those_under_the_roots(
    content: dict[str, Any], tmp_path: Path
) -> None:
    path = save(content, tmp_path)
    assert load_campaign("nacl", permissions=STRANGERS).name == "nacl"
    for unknown in (path, path.with_name("absent.yaml")):  # whether a file is there is not told
        with pytest.raises(NotPermitted, match=r"^campaign: .*TEMPER_DATA_ROOTS="):
            load_campaign(str(unknown), permissions=STRANGERS)
    with pytest.raises(CampaignError, match="no campaign named"):
        load_campaign("../campaigns/nacl", permissions=STRANGERS)
    allowed = Permissions(roots=[path.parent], from_person=False)
    assert load_campaign(str(path), permissions=allowed).name == "water"


PROGRAMS: dict[str, dict[str, Any]] = {
    "run": {"kind": "command", "run": "PROGRAM"},
    "its version": {"kind": "command", "run": "true", "version_command": "PROGRAM"},
    "cp2k": {"kind": "cp2k", "run": "PROGRAM"},
    "ase": {"kind": "ase", "calculator": "nwchem", "parameters": {"task": "shell"}},
}


@pytest.mark.parametrize("calculator", PROGRAMS.values(), ids=PROGRAMS)
def test_no_program_is_started_that_nobody_allowed(
    calculator: dict[str, Any], content: dict[str, Any], tmp_path: Path
) -> None:
    made = tmp_path / "made"
    line = {
        key: value.replace("PROGRAM", f"mkdir {made}")
        for key, value in calculator.items()
        if value == "PROGRAM"
    }
    if calculator["kind"] != "cp2k":
        line |= {"level_of_theory": "GFN2-xTB"}
    if calculator["kind"] == "command":
        line |= {"output": "o", "output_format": "extxyz"}
    asked = {**calculator, **line}
    path = save(content, tmp_path)
    fields: dict[str, Any] = {"rounds": {"calculator": asked}}
    if calculator["kind"] == "cp2k":
        fields["labels.level_of_theory"] = "PBE/DZVP-MOLOPT-SR-GTH/GTH-PBE 600 Ry (CP2K)"
    for permissions in (Permissions(), Permissions(programs=["true"])):
        with pytest.raises(NotPermitted, match=r"calculator .*TEMPER_PROGRAMS=.*(mkdir|nwchem|true)"):
            load_campaign(str(path), fields=fields, permissions=permissions)
    assert not made.exists()
