"""The shipped campaigns: that they load, and that their files hold what they are for."""

import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.io import read

from models.campaign_files import load, load_campaign
from models.campaign_names import find
from models.datasets import read_labels, split
from models.reference.xtb import relabelled
from models.systems import sn2

CAMPAIGNS = {path.stem: load(path) for path in sorted(find("nacl").parent.glob("*.yaml"))}
REAL = Path(os.environ.get("TEMPER_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))

# Labels of others, by campaign: the file, its level, and the fields in which it differs from what is shipped.
OTHERS: list[tuple[str, str, str, dict[str, Any]]] = [
    ("nacl", "nacl_water/derived/nacl_water_MP2.xyz", "MP2", {}),
    ("nacl", "nacl_water/derived/nacl_water_revPBE0-D3.xyz", "revPBE0-D3", {}),
    ("sn2", "generated_sn2_wb97x/ch3cl_cl_wb97x.xyz", "wB97X/def2-SVPD", {"split.by": "xi"}),
    (
        "spice",
        "spice_dipeptides/spice-dipep-dipolar_train.xyz",
        "wB97M-D3BJ/def2-TZVPPD",
        {
            "labels.names.energy": "energy",
            "labels.names.forces": "force",
            "e0s.policy": "explicit",
            "e0s.energies": dict.fromkeys("HCNO", 0.0),
        },
    ),
    ("li-electrolyte", "generated_li_carbonate_gfn2/li_carbonate_gfn2.xyz", "GFN2-xTB", {"split.by": "comp"}),
]


def having(role: Any) -> list[str]:
    """The campaigns that compare with structures of that role."""
    return [name for name, campaign in CAMPAIGNS.items() if role in campaign.evidence]


def frames(name: str, role: Any) -> list[Atoms]:
    return read(CAMPAIGNS[name].evidence[role].path, index=":")


@pytest.mark.parametrize("name", CAMPAIGNS)
def test_a_shipped_campaign_can_start(name):
    campaign = load_campaign(name)
    assert campaign.name == name
    kinds = {"naive"} if campaign.rounds else {"naive", "pseudolabelled_replay"}
    assert {candidate.kind for candidate in campaign.candidates} >= kinds
    assert all(path.stat().st_size < 1.5e6 for path in campaign.labels.path.parent.iterdir())
    labelled = read_labels(campaign.labels.path, campaign.labels.names, campaign.labels.units)
    assert all(np.linalg.norm(frame.arrays["REF_forces"].sum(axis=0)) < 0.02 for frame in labelled)
    parts = split(labelled, campaign.split, name)
    assert parts.grouped_by == "trajectory"
    assert {z for i in parts.indices["test"] for z in labelled[i].numbers} <= {
        z for i in parts.indices["train"] for z in labelled[i].numbers
    }, "an element is tested that was not trained on"


@pytest.mark.parametrize("name", CAMPAIGNS)
def test_what_a_shipped_campaign_compares_with_is_at_the_level_of_its_labels(name):
    campaign = CAMPAIGNS[name]
    assert campaign.evidence
    assert set(campaign.evidence) <= set(campaign.comparable)
    for role in campaign.evidence:
        assert all(np.isfinite(frame.info["REF_energy"]) for frame in frames(name, role))


@pytest.mark.parametrize("name", having("minima"))
def test_minima_have_names_of_their_own_and_no_forces(name):
    minima = frames(name, "minima")
    names = [frame.info["name"] for frame in minima]
    assert len(set(names)) == len(names)
    assert all(np.abs(frame.arrays["REF_forces"]).max() < 0.011 for frame in minima)


@pytest.mark.parametrize("name", having("paths"))
def test_paths_lead_from_a_minimum_over_one_barrier_to_another(name):
    paths = defaultdict(list)
    for frame in frames(name, "paths"):
        paths[frame.info["path"]].append(frame)
    for images in paths.values():
        assert [frame.info["image"] for frame in images] == list(range(len(images)))
        energies = np.array([frame.info["REF_energy"] for frame in images])
        top = int(energies.argmax())
        assert (np.diff(energies[: top + 1]) > 0.0).all()
        assert (np.diff(energies[top:]) < 0.0).all()
        assert all(np.abs(images[k].arrays["REF_forces"]).max() < 0.03 for k in (0, top, -1))


@pytest.mark.parametrize("name", having("crystals"))
def test_crystals_have_their_least_energy_between_their_volumes(name):
    crystals = defaultdict(list)
    for frame in frames(name, "crystals"):
        crystals[frame.info["crystal"]].append((frame.get_volume(), frame.info["REF_energy"], len(frame)))
    for states in crystals.values():
        assert len(states) >= 5
        assert len({atoms for _, _, atoms in states}) == 1, "energies of different cells do not compare"
        states.sort()
        least = int(np.argmin([energy for _, energy, _ in states]))
        assert 0 < least < len(states) - 1


@pytest.mark.parametrize("name", ["nacl", "sn2", "spice", "li-electrolyte"])
def test_shipped_labels_are_what_their_level_of_theory_says(name):
    campaign = CAMPAIGNS[name]
    labelled = read(campaign.labels.path, index=":")
    charged = {frame.info.get("charge", 0): frame for frame in labelled}
    for frame in charged.values():
        again = relabelled(frame, campaign.labels.level_of_theory)
        assert again.info["REF_energy"] == pytest.approx(frame.info["REF_energy"], abs=1e-4)
        np.testing.assert_allclose(again.arrays["REF_forces"], frame.arrays["REF_forces"], atol=1e-3)


def test_the_command_of_a_system_makes_the_shipped_file_again(tmp_path, monkeypatch):
    arguments = ["sn2", "--out", str(tmp_path), "--files", "minima", "--workers", "1"]
    monkeypatch.setattr("sys.argv", arguments)
    sn2.main()
    assert [path.name for path in tmp_path.iterdir()] == ["minima.extxyz"]
    shipped = frames("sn2", "minima")
    for made, given in zip(read(tmp_path / "minima.extxyz", index=":"), shipped, strict=True):
        assert made.info["name"] == given.info["name"]
        assert made.info["REF_energy"] == pytest.approx(given.info["REF_energy"], abs=1e-4)


@pytest.mark.parametrize(
    ("name", "file", "level", "fields"), OTHERS, ids=[f"{n}: {v}" for n, _, v, _ in OTHERS]
)
def test_a_shipped_campaign_takes_the_labels_of_others(name, file, level, fields):
    path = REAL / file
    if not path.is_file():
        pytest.skip(f"no {file}: set TEMPER_TEST_DATA to the folder of the real sets")
    campaign = load_campaign(name, labels=str(path), level_of_theory=level, fields=fields)
    assert ("minima" in campaign.comparable) == (level == "GFN2-xTB")
