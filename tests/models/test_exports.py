"""Exports say what the checkpoint says, also where they are used: without Temper, with ghosts, in batches."""

import copy
import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms

from models import potentials
from models.distillation.students import STUDENT
from models.exports import trials
from models.exports.base import ExportError
from models.exports.export import FORMATS, Exported, export
from models.exports.ghosts import KokkosData, LammpsData
from models.graphs import Prediction, graph, graphs, predict
from models.heads import with_heads
from models.potentials import Potential

E0S = {1: -11.0, 8: -2041.5, 11: -4412.25, 17: -12512.125}
SYMBOLS = ["H", "O", "Na", "Cl"]
STUDENTS = {
    "mace": {"kind": "small_mace", "channels": 4, "max_ell": 1, "cutoff": 3.5},
    "one-layer": {"kind": "ace", "channels": 4, "cutoff": 3.5},
    "two-layers": {"kind": "painn", "channels": 4, "layers": 2, "cutoff": 3.5},
}


def student(description: Mapping[str, Any], labelled: list[Atoms]) -> Potential:
    """A student with random weights in float32 and total energies of thousands of eV."""
    train = [graph(atoms, sorted(E0S), 3.5) for atoms in labelled]
    network = STUDENT.validate_python(description).network(E0S, train, seed=0)
    said = {"name": "salt & water", "licence": "MIT", "citation": "Doe, 2020"}
    return Potential(network=network.eval(), level_of_theory={"target": "GFN2-xTB"}, provenance=said)


@pytest.fixture(scope="module")
def checkpoints(labelled_waters: list[Atoms], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    paths = {name: folder / f"{name}.safetensors" for name in STUDENTS}
    for name, path in paths.items():
        potentials.save(student(STUDENTS[name], labelled_waters), path)
    return paths


@pytest.fixture(scope="module")
def exports(checkpoints: dict[str, Path]) -> dict[str, Exported]:
    """Every student in every format."""
    return {name: export(path, path.with_suffix("")) for name, path in checkpoints.items()}


@pytest.fixture
def salt(salt_water: Atoms) -> list[Atoms]:
    """A droplet of salt water, and the same in a skewed box smaller than two cutoffs."""
    box = salt_water.copy()
    box.set_cell([[6.4, 0.0, 0.0], [1.1, 6.1, 0.0], [-0.7, 0.4, 5.9]])
    box.pbc = True
    return [salt_water, box]


def right(checkpoint: Path, on: list[Atoms]) -> list[Prediction]:
    potential = potentials.load(checkpoint, torch.float64)
    return predict(potential, graphs(on, potential), stress=True)


def made(exported: Exported, form: str) -> Path:
    (file,) = (one.file for one in exported.made if one.format == form)
    return exported.folder / file


@pytest.mark.parametrize("form", ["torchscript", "lammps"])  # the others are Temper's own way to compute
@pytest.mark.parametrize("name", STUDENTS)
def test_an_export_says_what_its_checkpoint_says(
    name: str, form: str, exports: dict[str, Exported], checkpoints: dict[str, Path], salt: list[Atoms]
) -> None:
    structures = salt if form == "lammps" else [*salt, Atoms("Cl", positions=[[0.1, 0.2, 0.3]])]
    found = FORMATS[form].evaluate(made(exports[name], form), structures)
    expected = right(checkpoints[name], structures)
    assert np.abs(expected[1].forces).max() > 0.01
    assert expected[0].energy == pytest.approx(sum(E0S[z] for z in salt[0].numbers), abs=100.0)
    trials.compare(form, found, expected, torch.float32)


def test_the_card_names_terms_source_and_every_file(
    exports: dict[str, Exported], checkpoints: dict[str, Path]
) -> None:
    folder = exports["mace"].folder
    card = json.loads((folder / "card.json").read_text())
    formats = {"ase", "torchscript", "lammps"} | ({"torch-sim"} if find_spec("torch_sim") else set())
    assert {one["format"] for one in card["exports"]} == formats
    assert all(one["deviation"]["forces"] < 1e-4 for one in card["exports"])
    assert card["source_sha256"] == hashlib.sha256(checkpoints["mace"].read_bytes()).hexdigest()
    assert (card["level_of_theory"], card["licence"], card["citation"]) == ("GFN2-xTB", "MIT", "Doe, 2020")
    assert set(card["files"]) == {path.name for path in folder.iterdir()} - {"card.json", "README.md"}
    for file, digest in card["files"].items():
        assert hashlib.sha256((folder / file).read_bytes()).hexdigest() == digest
    text = (folder / "README.md").read_text()
    assert "license: mit" in text
    assert all(one.usage in text for one in exports["mace"].made)
    assert {"salt-water.model", "salt-water.torchscript.pt", "salt-water.mliap.pt"} <= set(card["files"])
    assert all(
        path.stat().st_mode & 0o444 == 0o444 for one in exports.values() for path in one.folder.iterdir()
    )


ALONE = """
import json, sys
import torch
extra = {"temper.json": ""}
potential = torch.jit.load(sys.argv[1], _extra_files=extra)
with torch.no_grad():
    found = potential(*torch.load(sys.argv[2]))
print(json.dumps({"energy": float(found["energy"]), "about": json.loads(extra["temper.json"]),
    "imported": sorted({"models", "mace", "e3nn", "ase"} & set(sys.modules))}))
"""


def test_torchscript_needs_nothing_but_torch(
    exports: dict[str, Exported], checkpoints: dict[str, Path], salt: list[Atoms], tmp_path: Path
) -> None:
    box = salt[1]
    taken = graph(box, sorted(E0S), 3.5)
    tensors = [taken.positions, torch.tensor(box.numbers), taken.edge_index, taken.unit_shifts @ taken.cell]
    torch.save([*tensors, taken.cell], tmp_path / "tensors.pt")
    command = [sys.executable, "-c", ALONE, made(exports["mace"], "torchscript"), tmp_path / "tensors.pt"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["imported"] == []
    assert said["about"]["level_of_theory"] == "GFN2-xTB"
    assert said["energy"] == pytest.approx(right(checkpoints["mace"], [box])[0].energy, abs=1e-4)


def test_torchscript_names_the_elements_it_knows(exports: dict[str, Exported]) -> None:
    with pytest.raises(torch.jit.Error, match=r"does not know.*Cl"):
        FORMATS["torchscript"].evaluate(
            made(exports["one-layer"], "torchscript"), [Atoms("LiF", [(0, 0, 0), (0, 0, 2)])]
        )


def in_lammps(exported: Exported, data: LammpsData) -> Any:
    """The potential that LAMMPS opens, after it computed with `data`."""
    potential = torch.load(made(exported, "lammps"), weights_only=False)
    potential.compute_forces(data)
    return potential


def test_one_layer_needs_no_kokkos(
    exports: dict[str, Exported], checkpoints: dict[str, Path], salt: list[Atoms]
) -> None:
    expected = right(checkpoints["one-layer"], salt)
    found = []
    for atoms in salt:
        data = LammpsData(atoms, SYMBOLS, 3.5)
        potential = in_lammps(exports["one-layer"], data)
        assert potential.about["licence"] == "MIT"
        assert data.eatoms.sum() == pytest.approx(data.energy)
        found.append(data.prediction(atoms))
    trials.compare("lammps", found, expected, torch.float32)


def part_of(whole: LammpsData, mine: np.ndarray) -> tuple[LammpsData, np.ndarray]:
    """What one of several processes sees, and its order: the atoms `mine`, then all others as ghosts."""
    order = np.concatenate([mine, np.setdiff1d(np.arange(whole.ntotal), mine)])
    place = np.argsort(order)
    own = np.isin(whole.pair_i, mine)
    part = copy.copy(whole)
    part.nlocal = part.nlistatoms = len(mine)
    part.npairs = int(own.sum())
    part.iatoms, part.elems = np.arange(len(mine)), whole.elems[order]
    part.pair_i, part.pair_j, part.rij = place[whole.pair_i[own]], place[whole.pair_j[own]], whole.rij[own]
    part.eatoms, part.f, part.virial = np.zeros(len(mine)), np.zeros_like(whole.f), np.zeros((3, 3))
    return part, order


def test_one_layer_runs_in_several_processes(
    exports: dict[str, Exported], checkpoints: dict[str, Path], salt: list[Atoms]
) -> None:
    whole = LammpsData(salt[1], SYMBOLS, 3.5)
    for mine in (np.array([0, 3, 4, 9]), np.array([1, 2, 5, 6, 7, 8, 10])):
        part, order = part_of(whole, mine)
        in_lammps(exports["one-layer"], part)
        whole.energy += part.energy
        whole.virial += part.virial
        whole.f[order] += part.f
    expected = right(checkpoints["one-layer"], salt[1:])
    trials.compare("lammps", [whole.prediction(salt[1])], expected, torch.float32)


def test_further_layers_need_to_know_whose_images_ghosts_are(
    exports: dict[str, Exported], salt: list[Atoms]
) -> None:
    droplet, box = salt
    in_lammps(exports["two-layers"], LammpsData(droplet, SYMBOLS, 3.5))  # has no ghosts
    with pytest.raises(RuntimeError, match=r"2 layers .* needs LAMMPS with Kokkos"):
        in_lammps(exports["two-layers"], LammpsData(box, SYMBOLS, 3.5))


class Neighbour(KokkosData):
    """One of two processes: its last ghost is an image of an atom of the other."""

    def forward_exchange(self, given: torch.Tensor, taken: torch.Tensor, width: int) -> None:
        super().forward_exchange(given, taken, width)
        taken[-1] = given[0] + 1.0


def test_further_layers_are_refused_in_several_processes(
    exports: dict[str, Exported], salt: list[Atoms]
) -> None:
    with pytest.raises(RuntimeError, match="in one MPI process only"):
        in_lammps(exports["two-layers"], Neighbour(salt[1], SYMBOLS, 3.5))


def test_types_without_an_element_are_refused(exports: dict[str, Exported], salt: list[Atoms]) -> None:
    data = LammpsData(salt[0], SYMBOLS, 3.5)
    data.elems[3] = -1
    with pytest.raises(ValueError, match="every type of atoms needs an element"):
        in_lammps(exports["one-layer"], data)


def test_a_process_without_atoms_or_pairs_has_nothing_to_say(
    exports: dict[str, Exported], checkpoints: dict[str, Path]
) -> None:
    atom = Atoms("Na", positions=[[0.0, 0.0, 0.0]])
    expected = right(checkpoints["one-layer"], [atom])[0].energy
    for atoms, energy in ((Atoms(), 0.0), (atom, expected)):
        data = LammpsData(atoms, SYMBOLS, 3.5)
        in_lammps(exports["one-layer"], data)
        assert data.energy == pytest.approx(energy, abs=1e-6)
        assert not data.f.any()


def test_torch_sim_takes_many_systems_at_once(
    checkpoints: dict[str, Path], salt_crystal: Atoms, salt: list[Atoms]
) -> None:
    ts = pytest.importorskip("torch_sim")
    from models.exports.torchsim_model import TorchSimPotential

    model = TorchSimPotential(potentials.load(checkpoints["one-layer"], torch.float64))
    systems = [salt_crystal, salt[1]]
    for atoms in systems:  # torch-sim takes no other arrays
        atoms.arrays = {name: atoms.arrays[name] for name in ("numbers", "positions")}
    state = ts.io.atoms_to_state(systems, torch.device("cpu"), torch.float64)
    found = model(state)
    expected = right(checkpoints["one-layer"], systems)
    assert found["energy"].tolist() == pytest.approx([p.energy for p in expected], abs=1e-9)
    np.testing.assert_allclose(found["forces"], np.concatenate([p.forces for p in expected]), atol=1e-9)
    np.testing.assert_allclose(found["stress"], np.stack([p.stress for p in expected]), atol=1e-10)


def test_torch_sim_conserves_energy(checkpoints: dict[str, Path], salt_crystal: Atoms) -> None:
    ts = pytest.importorskip("torch_sim")
    from models.exports.torchsim_model import TorchSimPotential

    model = TorchSimPotential(potentials.load(checkpoints["one-layer"]))
    salt_crystal.arrays = {name: salt_crystal.arrays[name] for name in ("numbers", "positions")}
    time_step = torch.tensor(0.5e-3 * ts.units.MetalUnits.time, dtype=torch.float64)
    warm = torch.tensor(0.05, dtype=torch.float64)
    begin, step = ts.integrators.nve(model, dt=time_step, kT=warm, seed=0)
    state = begin(ts.io.atoms_to_state([salt_crystal] * 2, torch.device("cpu"), torch.float64))
    start = state.clone()
    for _ in range(30):
        state = step(state)
    first, last = (
        ts.calc_kinetic_energy(masses=s.masses, momenta=s.momenta, system_idx=s.system_idx)
        for s in (start, state)
    )
    assert (state.energy - start.energy).abs().min() > 1e-3
    assert (state.energy + last - start.energy - first).abs().max() < 1e-4


def test_torch_sim_finds_the_model_sound(labelled_waters: list[Atoms]) -> None:
    interface = pytest.importorskip("torch_sim.models.interface")
    from models.exports.torchsim_model import TorchSimPotential

    train = [graph(atoms, [1, 8], 3.5) for atoms in labelled_waters]
    description = {**STUDENTS["two-layers"], "cutoff": 4.5}
    network = STUDENT.validate_python(description).network({14: -1.0, 26: -2.0}, train, seed=0)
    model = TorchSimPotential(Potential(network=network, level_of_theory={"target": "-"}, provenance={}))
    interface.validate_model_outputs(model, torch.device("cpu"), torch.float64)


def test_one_head_is_exported(labelled_waters: list[Atoms], tmp_path: Path, salt: list[Atoms]) -> None:
    one = student({**STUDENTS["mace"], "layers": 1}, labelled_waters)
    network = with_heads(one, {"replay": E0S, "target": {z: e - 3.0 for z, e in E0S.items()}})
    both = Potential(network=network.eval(), level_of_theory={"replay": "a", "target": "b"}, provenance={})
    path = tmp_path / "both.safetensors"
    potentials.save(both, path)
    with pytest.raises(ExportError, match="has the heads replay, target; choose one with --head"):
        export(path, tmp_path / "out", ["ase"])
    with pytest.raises(ExportError, match="no head 'other'; there is replay, target"):
        export(path, tmp_path / "out", ["ase"], head="other")
    exported = export(path, tmp_path / "out", ["ase"], head="replay")
    (found,) = FORMATS["ase"].evaluate(made(exported, "ase"), salt[:1])
    (expected,) = predict(both, graphs(salt[:1], both, "replay"))
    assert found.energy == pytest.approx(expected.energy, abs=1e-3)
    assert json.loads((exported.folder / "card.json").read_text())["level_of_theory"] == "a"


def test_forces_that_are_no_gradient_are_not_exported_as_one(
    labelled_waters: list[Atoms], tmp_path: Path
) -> None:
    direct = student({**STUDENTS["two-layers"], "forces": "direct"}, labelled_waters)
    potentials.save(direct, tmp_path / "direct.safetensors")
    with pytest.raises(ExportError, match="not the gradient of its energy"):
        export(tmp_path / "direct.safetensors", tmp_path / "out", ["torchscript"])
    exported = export(tmp_path / "direct.safetensors", tmp_path / "out")
    assert {one.format for one in exported.made} <= {"ase", "torch-sim"}
    assert [reason.partition(":")[0] for reason in exported.left_out][:2] == ["torchscript", "lammps"]


def test_what_does_not_agree_is_not_left_behind(labelled_waters: list[Atoms], tmp_path: Path) -> None:
    broken = student(STUDENTS["one-layer"], labelled_waters)
    with torch.no_grad():
        next(broken.network.parameters()).fill_(torch.nan)
    potentials.save(broken, tmp_path / "broken.safetensors")
    with pytest.raises(ExportError, match="ase: the export does not say what the checkpoint says"):
        export(tmp_path / "broken.safetensors", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["broken.safetensors"]


def test_folders_that_cannot_be_had(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("kept")
    with pytest.raises(ExportError, match="full: is there already and not an empty folder"):
        export(checkpoints["one-layer"], tmp_path / "full")
    with pytest.raises(ExportError, match="no format lamps; there are ase, torchscript, lammps, torch-sim"):
        export(checkpoints["one-layer"], tmp_path / "out", ["ase", "lamps"])
    with pytest.raises(ExportError, match="cannot be written"):
        export(checkpoints["one-layer"], tmp_path / "full" / "mine" / "out", ["ase"])
    (tmp_path / "empty").mkdir()
    assert export(checkpoints["one-layer"], tmp_path / "empty", ["ase"]).folder == tmp_path / "empty"
