from pathlib import Path
from typing import Any

import pytest
import yaml
from ase import Atoms
from ase.build import molecule

from models.campaign import Calculator, Campaign
from models.campaign_files import load, load_campaign
from models.campaign_names import CampaignError, find
from models.datasets import DataError, write_structures
from models.foundation import FoundationError


def test_every_shipped_campaign_is_sound():
    campaign = load_campaign("nacl")
    assert campaign.name == "nacl"
    assert set(campaign.comparable) == {"reference", "minima"}
    assert {threshold.check for threshold in campaign.gate} <= {check.kind for check in campaign.checks}
    assert {candidate.kind for candidate in campaign.candidates} == {"naive", "pseudolabelled_replay"}


@pytest.fixture
def content(tmp_path, labelled_waters) -> dict[str, Any]:
    """A campaign on water, whose files are all in the test's folder."""
    write_structures(tmp_path / "labels.xyz", labelled_waters)
    return {
        "name": "water",
        "labels": {
            "path": "labels.xyz", "level_of_theory": "GFN2-xTB", "licence": "MIT", "citation": "ours",
            "units": {"energy": "eV", "forces": "eV/Å"},
        },
        "candidates": [{"kind": "naive"}, {"kind": "pseudolabelled_replay"}],
    }  # fmt: skip


@pytest.fixture
def written(content, tmp_path) -> str:
    return save(content, tmp_path)


def save(content: Any, folder: Path) -> str:
    path = folder / "water.yaml"
    path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return str(path)


def test_paths_are_those_beside_the_file(written, tmp_path):
    assert load_campaign(written).labels.path == tmp_path / "labels.xyz"


def with_second_level(content: dict[str, Any], folder: Path, frames: list[Atoms]) -> str:
    write_structures(folder / "second.xyz", frames)
    content["further"] = {"pbe": {**content["labels"], "path": "second.xyz", "level_of_theory": "PBE"}}
    return save(content, folder)


def test_further_levels_have_their_own_labels_and_e0s(content, labelled_waters, tmp_path):
    campaign = load_campaign(with_second_level(content, tmp_path, labelled_waters))
    labels, policy = campaign.level("pbe")
    assert (labels.path, labels.level_of_theory) == (tmp_path / "second.xyz", "PBE")
    assert policy.policy == "estimated"
    assert campaign.level("target") == (campaign.labels, campaign.e0s)


def test_what_one_level_is_tested_on_no_other_is_trained_on(content, labelled_waters, tmp_path):
    renamed = [frame.copy() for frame in labelled_waters]
    for frame in renamed:
        # Dealt out in another order.
        frame.info["trajectory"] = f"w{(int(frame.info['trajectory'][1:]) + 1) % 6}"
    with pytest.raises(CampaignError, match=r"second\.xyz, frame \d+ \(H\d+O2?\): pbe would train on a"):
        load_campaign(with_second_level(content, tmp_path, renamed))


@pytest.mark.parametrize("head", ["target", "replay", "PBE 0"])
def test_a_further_head_needs_a_name_of_its_own(content, head, tmp_path):
    content["further"] = {head: {**content["labels"], "level_of_theory": "PBE"}}
    with pytest.raises(CampaignError, match=f"further: '{head}' cannot be a head's name"):
        load_campaign(save(content, tmp_path))


def change(content: dict[str, Any], place: str, value: Any) -> None:
    *sections, last = (int(part) if part.isdigit() else part for part in place.split("."))
    for section in sections:
        content = content.setdefault(section, {}) if isinstance(content, dict) else content[section]
    content[last] = value


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (
            "candidates.0.optimisation",
            {"learning_rat": 1.0},
            "candidates.0.naive.optimisation.learning_rat: unknown key",
        ),
        (
            "gate",
            [{"figure": "accuracy.forces", "at_mots": 1.0}],
            "gate.0.at_mots: unknown key; check its spelling and its section",
        ),
        (
            "gate",
            [{"figure": "accuracy.forces"}],
            "gate.0: accuracy.forces: give either at_least or at_most",
        ),
        (
            "gate",
            [{"figure": "accuracy.fores", "at_most": 1.0}],
            "campaign: gate: accuracy has no fores, but forces, forces_p99, energy, stress",
        ),
        (
            "gate",
            [{"figure": "distributions.emd", "at_most": 1.0, "relative_to": "current"}],
            "campaign: gate: distributions.emd has no samples, by which two models could be compared",
        ),
        ("checks", [{"kind": "accuracy"}] * 2, "campaign: checks: there are two of accuracy; remove one"),
        ("checks", [{"kind": "charm"}], "checks.0: Input tag 'charm' found using 'kind' does not match any"),
        ("labels.units", {"energy": "eV"}, "labels.units.forces: is missing; add it"),
        ("labels.units.energy", "ev", "labels.units.energy: Input should be 'eV', 'meV'"),
        ("labels.level_of_theory", "", "labels.level_of_theory: String should have at least 1 character"),
        ("candidates", [], "campaign: candidates: is missing; list strategies, or those to try in"),
        ("candidates", [{"kind": "naive"}] * 2, "campaign: candidates: two are called naive; remove one"),
        ("candidates.0.called", "student", "campaign: candidates: none can be called student; change"),
        ("candidates.0.called", "My Model", "candidates.0.naive.called: String should match pattern"),
        ("candidates.0.weights", {"force": 1.0}, "candidates.0.naive.weights.force: unknown key"),
        ("candidates.0", {"kind": "lora", "rank": 0}, "candidates.0.lora.rank: Input should be greater"),
        (
            "candidates.0.kind",
            "magic",
            "candidates.0: Input tag 'magic' found using 'kind' does not match any of",
        ),
        ("split", {"valid": 0.6, "test": 0.4}, "split: valid and test together leave nothing to train on"),
        ("name", "Water!", "name: String should match pattern"),
        ("labels", "labels.xyz", "labels: Input should be a valid dictionary or instance of Labels"),
    ],
)
def test_a_mistake_in_the_file_is_one_line_naming_its_place(place, value, message, content, tmp_path):
    change(content, place, value)
    with pytest.raises(CampaignError) as caught:
        load_campaign(save(content, tmp_path))
    said = str(caught.value)
    assert f"water.yaml: {message}" in said
    assert "\n" not in said
    assert len(said) < 400


def test_two_mistakes_are_two_lines(content, tmp_path):
    change(content, "name", "Water!")
    change(content, "simulation.duration", -1.0)
    with pytest.raises(CampaignError) as caught:
        load(Path(save(content, tmp_path)))
    assert [line.split(": ")[1] for line in str(caught.value).splitlines()] == ["name", "simulation.duration"]


@pytest.mark.parametrize(
    ("place", "value", "error", "message"),
    [
        ("labels.path", "absent.xyz", DataError, r"absent\.xyz: no such file"),
        ("replay.path", "absent.xyz", DataError, r"absent\.xyz: no such file"),
        (
            "labels.names",
            {"energy": "E"},
            DataError,
            r"labels\.xyz, frame 0: no energy under 'E'; it has .*REF_energy",
        ),
        ("labels.names", {"stress": "S"}, DataError, r"both names\.stress and units\.stress"),
        ("foundation.name", "smal", FoundationError, "'smal' is neither a file nor known"),
        ("e0s.policy", "isolated_atoms", DataError, "no frame with config_type=IsolatedAtom for H, O"),
        ("e0s", {"policy": "explicit", "energies": {"H": -1.0}}, DataError, "no energy for O in energies"),
    ],
)
def test_an_input_that_cannot_be_used_is_found_before_anything_runs(
    place, value, error, message, content, tmp_path
):
    change(content, place, value)
    with pytest.raises(error, match=message):
        load_campaign(save(content, tmp_path))


def test_one_strategy_can_compete_with_itself(content, tmp_path):
    content["candidates"] = [
        {"kind": "lora", "rank": 4}, {"kind": "lora", "rank": 16},
        {"kind": "lora", "rank": 16, "called": "lora-strong", "alpha": 16.0},
        {"kind": "frozen"}, {"kind": "frozen", "trains": "readouts"},
    ]  # fmt: skip
    campaign = load_campaign(save(content, tmp_path))
    assert [candidate.name for candidate in campaign.candidates] == [
        "lora-r4", "lora-r16", "lora-strong", "frozen-interactions", "frozen-but-readouts",
    ]  # fmt: skip
    assert Campaign.model_validate(campaign.model_dump()) == campaign


def test_the_shipped_replay_set_is_of_the_shipped_foundations_level(content, tmp_path):
    content["candidates"] = [{"kind": "multihead_replay"}]
    campaign = load_campaign(save(content, tmp_path))
    assert campaign.replay.labels_level == "GFN1-xTB"


@pytest.mark.parametrize(
    ("replay", "message"),
    [
        ({"path": "labels.xyz"}, r"replay\.level_of_theory: is missing; multihead-replay trains on"),
        (
            {"path": "labels.xyz", "level_of_theory": "GFN2-xTB"},
            r"the labels are GFN2-xTB, the foundation temper-gfn1 is GFN1-xTB, and multihead-replay would",
        ),
        (
            {"path": "bare.xyz", "level_of_theory": "GFN1-xTB"},
            r"bare\.xyz, frame 2 \(\w+\): no REF_energy and REF_forces, on which multihead-replay trains",
        ),
    ],
)
def test_replay_labels_of_another_level_or_none_are_refused(
    replay, message, content, tmp_path, labelled_waters
):
    bare = [atoms.copy() for atoms in labelled_waters]
    del bare[2].arrays["REF_forces"]
    write_structures(tmp_path / "bare.xyz", bare)
    content |= {"replay": replay, "candidates": [{"kind": "naive"}, {"kind": "multihead_replay"}]}
    with pytest.raises(CampaignError, match=message):
        load_campaign(save(content, tmp_path))
    content["candidates"] = [{"kind": "naive"}, {"kind": "pseudolabelled_replay"}]
    load_campaign(save(content, tmp_path))


def test_replay_labels_that_contradict_each_other_are_refused(content, tmp_path, labelled_waters):
    other = labelled_waters[3].copy()
    other.arrays["REF_forces"] *= 2.0
    write_structures(tmp_path / "replay.xyz", [*labelled_waters, other])
    content["replay"] = {"path": "replay.xyz", "level_of_theory": "GFN1-xTB"}
    load_campaign(save(content, tmp_path))
    content["candidates"] = [{"kind": "multihead_replay"}]
    with pytest.raises(DataError, match=r"replay\.xyz, frame 24 \(H2O\): the structure of frame 3 with"):
        load_campaign(save(content, tmp_path))


def test_a_label_that_is_no_number_is_named(written, tmp_path, labelled_waters):
    frames = [frame.copy() for frame in labelled_waters]
    frames[5].info["REF_energy"] = float("nan")
    write_structures(tmp_path / "labels.xyz", frames)
    with pytest.raises(DataError, match=r"labels\.xyz, frame 5: energy under 'REF_energy' is not finite"):
        load_campaign(written)


def test_one_structure_in_several_trajectories_is_named(written, tmp_path, labelled_waters):
    twins = [labelled_waters[0].copy() for _ in range(3)]
    for name, twin in zip("abc", twins, strict=True):
        twin.info["trajectory"] = name
    write_structures(tmp_path / "labels.xyz", twins)
    with pytest.raises(DataError, match=r"labels\.xyz: structure 0 of \w+ \(H2O\) is .* must not overlap"):
        load_campaign(written)


@pytest.mark.parametrize("section", ["labels", "replay"])
def test_an_element_that_the_foundation_does_not_know_is_named(section, content, tmp_path, labelled_waters):
    strange = labelled_waters[5].copy()
    strange.numbers[0] = 79
    write_structures(tmp_path / "strange.xyz", [*labelled_waters, strange])
    change(content, f"{section}.path", "strange.xyz")
    with pytest.raises(
        DataError,
        match=r"strange\.xyz, frame 24 \(\w*Au\w*\): the foundation temper-gfn1 does not know Au; it",
    ):
        load_campaign(save(content, tmp_path))


def test_files_that_are_no_campaign(tmp_path):
    with pytest.raises(
        CampaignError, match=r"no campaign named 'nacll'; shipped: .*nacl.* A path must end in \.yaml"
    ):
        find("nacll")
    with pytest.raises(CampaignError, match=r"absent\.yaml: no such campaign file"):
        load(tmp_path / "absent.yaml")
    with pytest.raises(CampaignError, match=r"water\.yaml: a campaign is a mapping of sections, not list"):
        load(Path(save([1, 2], tmp_path)))
    (tmp_path / "bad.yaml").write_text("name: [unclosed")
    with pytest.raises(CampaignError, match=r"bad\.yaml: not valid YAML"):
        load(tmp_path / "bad.yaml")


def test_other_labels_need_their_level_and_bring_no_licence(written, tmp_path, labelled_waters, monkeypatch):
    for given in ({"labels": "other.xyz"}, {"level_of_theory": "MP2"}):
        with pytest.raises(CampaignError, match="give labels and level_of_theory together"):
            load_campaign(written, **given)
    (tmp_path / "elsewhere").mkdir()
    write_structures(tmp_path / "elsewhere" / "other.xyz", labelled_waters)
    monkeypatch.chdir(tmp_path / "elsewhere")
    labels = load_campaign(written, labels="other.xyz", level_of_theory="MP2").labels
    assert labels.path == tmp_path / "elsewhere" / "other.xyz"
    assert (labels.level_of_theory, labels.licence, labels.citation) == ("MP2", "unknown", "")
    assert load_campaign(written).labels.licence == "MIT"


def test_labels_say_what_computed_them_and_other_labels_do_not(content, tmp_path):
    assert load_campaign("nacl").labels.calculator == Calculator(
        name="tblite", version="0.8.0", settings={"method": "GFN2-xTB", "accuracy": 0.1, "charge": 0}
    )
    given = {"name": "orca", "settings": {"grid": [3, 4], "ri": True}}
    content["labels"] |= {"calculator": given, "repeated": "last"}
    path = save(content, tmp_path)
    assert load_campaign(path).labels.calculator == Calculator.model_validate(given)
    labels = load_campaign(path, labels=str(tmp_path / "labels.xyz"), level_of_theory="MP2").labels
    assert (labels.calculator, labels.repeated) == (None, None)
    change(content, "labels.calculator", {"version": "6"})
    with pytest.raises(CampaignError, match=r"labels\.calculator\.name: is missing; add it"):
        load_campaign(save(content, tmp_path))


def test_one_structure_with_two_labels_is_named_unless_one_stands(content, tmp_path, labelled_waters):
    other = labelled_waters[3].copy()
    other.info["REF_energy"] += 0.1
    write_structures(tmp_path / "labels.xyz", [*labelled_waters, other])
    with pytest.raises(DataError, match=r"labels\.xyz, frame 24 \(H2O\): the structure of frame 3 with ano"):
        load_campaign(save(content, tmp_path))
    content["labels"]["repeated"] = "first"
    assert load_campaign(save(content, tmp_path)).labels.repeated == "first"
    content["labels"]["repeated"] = "mean"
    with pytest.raises(CampaignError, match=r"labels\.repeated: Input should be 'first' or 'last'"):
        load_campaign(save(content, tmp_path))


def test_trajectories_of_another_level_are_no_reference(content, tmp_path):
    content["reference"] = {"path": "labels.xyz", "level_of_theory": "GFN2-xTB", "temperature": 300.0}
    path = save(content, tmp_path)
    assert set(load_campaign(path).comparable) == {"reference"}
    other = load_campaign(path, labels=str(tmp_path / "labels.xyz"), level_of_theory="MP2")
    assert other.comparable == {}


def test_the_foundation_can_be_replaced(written, tiny_foundation):
    assert load_campaign(written, foundation=str(tiny_foundation)).foundation.name == str(tiny_foundation)


def test_an_override_does_not_hide_a_section_of_the_wrong_kind(content, tmp_path):
    content["split"] = "trajectory"
    with pytest.raises(CampaignError, match="split: is a mapping of fields, not 'trajectory'"):
        load_campaign(save(content, tmp_path), seed=1)


def seeds(value: Any) -> list[int]:
    if isinstance(value, dict):
        return [v for k, v in value.items() if k == "seed"] + [s for v in value.values() for s in seeds(v)]
    return [s for item in value for s in seeds(item)] if isinstance(value, list | tuple) else []


def test_one_seed_reaches_every_seed(written):
    before, after = load_campaign(written), load_campaign(written, seed=7)
    assert set(seeds(before.model_dump())) == {0}
    assert set(seeds(after.model_dump())) == {7}
    assert len(seeds(after.model_dump())) == len(seeds(before.model_dump())) >= 7
    assert Campaign.model_validate(after.model_dump()) == after


def test_molecules_without_trajectories_are_too_few(content, tmp_path):
    twins = [molecule("H2O") for _ in range(2)]
    for frame in twins:
        frame.info["REF_energy"] = -14.0
        frame.arrays["REF_forces"] = frame.positions * 0.0
    write_structures(tmp_path / "labels.xyz", twins)
    with pytest.raises(DataError, match="only 1 groups by chemical formula"):
        load_campaign(save(content, tmp_path))
