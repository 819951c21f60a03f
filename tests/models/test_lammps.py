"""What LAMMPS computes with an export, where it is installed with ML-IAP for Python: numbers and dynamics."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms, units
from ase.geometry import find_mic
from ase.md.verlet import VelocityVerlet

from models import potentials
from models.calculator import PotentialCalculator
from models.distillation.students import STUDENT
from models.exports.export import export
from models.graphs import graph, graphs, predict
from models.potentials import Potential

ROOT = Path(__file__).parents[2]
E0S = {1: -11.0, 8: -2041.5, 11: -4412.25, 17: -12512.125}
KOKKOS = ["-k", "on", "-sf", "kk", "-pk", "kokkos", "newton", "on", "neigh", "half"]
STEPS = 200
TIME_STEP = 0.25  # fs
PROBE = """
from lammps import lammps, mliap
mliap.activate_mliappy_kokkos(lammps(cmdargs=["-log", "none", "-screen", "none"]))
"""
DRIVER = """
import json, sys
from lammps import lammps, mliap

job = json.loads(sys.argv[1])
lmp = lammps(cmdargs=["-log", "none", "-screen", "none", *job["arguments"]])
mliap.activate_mliappy(lmp)
mliap.activate_mliappy_kokkos(lmp)
(xx, _, _), (xy, yy, _), (xz, yz, zz) = job["cell"]
boundary = "p p p" if job["periodic"] else "f f f"
lmp.commands_list([
    "units metal", "atom_style atomic", "atom_modify map yes", "newton on", f"boundary {boundary}",
    f"region box prism 0 {xx} 0 {yy} 0 {zz} {xy} {xz} {yz}", f"create_box {len(job['masses'])} box",
    *(f"mass {k} {mass}" for k, mass in enumerate(job["masses"], 1)),
])
lmp.create_atoms(len(job["types"]), None, job["types"], sum(job["positions"], []), sum(job["velocities"], []))
lmp.commands_list([
    f"pair_style mliap unified {job['file']} 0", f"pair_coeff * * {job['symbols']}",
    "compute virial all pressure NULL virial", "thermo_style custom step pe c_virial[*]",
    "fix move all nve", f"timestep {job['time_step']}", "run 0",
])
found = {"energy": lmp.get_thermo("pe"), "virial": lmp.numpy.extract_compute("virial", 0, 1).tolist(),
    "forces": list(lmp.gather_atoms("f", 1, 3))}
lmp.command(f"run {job['steps']}")
found["end"] = list(lmp.gather_atoms("x", 1, 3))
found["last_energy"] = lmp.get_thermo("pe")
print("FOUND" + json.dumps(found))
"""


@pytest.fixture(scope="module")
def lammps() -> None:
    """Skip where LAMMPS cannot run this; its library ends the process where something is missing."""
    if importlib.util.find_spec("lammps") is None:
        pytest.skip("LAMMPS is not installed")
    probe = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=False)
    if probe.returncode:
        pytest.skip(f"this LAMMPS has no ML-IAP for Python with Kokkos: {probe.stderr[-300:]}")


def in_lammps(file: Path, atoms: Atoms, arguments: list[str]) -> dict[str, Any]:
    """Energy, forces and stress of `atoms`, and where they are after a run; the cell is lower triangular."""
    kinds = sorted(set(atoms.numbers.tolist()))
    masses = {z: float(atoms[atoms.numbers == z].get_masses()[0]) for z in kinds}
    job = {
        "file": str(file),
        "arguments": arguments,
        "cell": atoms.cell.array.tolist(),
        "periodic": bool(atoms.pbc.all()),
        "positions": atoms.positions.tolist(),
        "velocities": (atoms.get_velocities() * units.fs * 1000.0).tolist(),
        "types": [kinds.index(z) + 1 for z in atoms.numbers],
        "masses": list(masses.values()),
        "symbols": " ".join(Atoms(kinds).get_chemical_symbols()),
        "time_step": TIME_STEP * 1e-3,
        "steps": STEPS,
    }
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, json.dumps(job)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "FOUND" in done.stdout, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout.partition("FOUND")[2])
    for name in ("forces", "end"):
        found[name] = np.reshape(found[name], (-1, 3))
    xx, yy, zz, xy, xz, yz = -np.array(found["virial"]) * 1e5 * units.Pascal
    found["stress"] = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    return found


@pytest.fixture
def droplet_and_box(salt_water: Atoms) -> list[Atoms]:
    """Salt water at 300 K in an empty box, and in a skewed periodic one."""
    speeds = np.sqrt(units.kB * 300.0 / salt_water.get_masses())[:, None]
    salt_water.set_velocities(speeds * np.random.default_rng(0).normal(size=(len(salt_water), 3)))
    box = salt_water.copy()
    salt_water.set_cell(np.diag([40.0] * 3))
    salt_water.center()
    box.set_cell([[8.2, 0.0, 0.0], [1.3, 7.9, 0.0], [-0.8, 0.6, 8.5]])
    box.pbc = True
    return [salt_water, box]


@pytest.mark.parametrize(
    ("description", "arguments"),
    [
        ({"kind": "small_mace", "channels": 4, "max_ell": 1}, KOKKOS),
        ({"kind": "ace", "channels": 4}, []),
        ({"kind": "ace", "channels": 4}, KOKKOS),
        ({"kind": "painn", "channels": 4, "layers": 2}, KOKKOS),
    ],
)
def test_lammps_computes_and_moves_as_ase_does(
    description: dict[str, Any],
    arguments: list[str],
    lammps: None,
    droplet_and_box: list[Atoms],
    labelled_waters: list[Atoms],
    tmp_path: Path,
) -> None:
    train = [graph(atoms, sorted(E0S), 3.5) for atoms in labelled_waters]
    network = STUDENT.validate_python({**description, "cutoff": 3.5}).network(E0S, train, seed=0).double()
    student = Potential(network=network.eval(), level_of_theory={"target": "-"}, provenance={})
    checkpoint = tmp_path / "student.safetensors"
    potentials.save(student, checkpoint)
    potential = potentials.load(checkpoint)
    export(checkpoint, tmp_path / "out", ["lammps"])
    (file,) = (tmp_path / "out").glob("*.mliap.pt")
    expected = predict(potential, graphs(droplet_and_box, potential), stress=True)
    for atoms, right in zip(droplet_and_box, expected, strict=True):
        found = in_lammps(file, atoms, arguments)
        assert found["energy"] == pytest.approx(right.energy, abs=1e-7)
        np.testing.assert_allclose(found["forces"], right.forces, atol=1e-7)
        if right.stress is not None:
            np.testing.assert_allclose(found["stress"], right.stress, atol=1e-7)
        atoms.calc = PotentialCalculator(potential)
        start = atoms.positions.copy()
        VelocityVerlet(atoms, timestep=TIME_STEP * units.fs).run(STEPS)
        apart = find_mic(found["end"] - atoms.positions, atoms.cell, atoms.pbc)[1]
        assert np.abs(atoms.positions - start).max() > 0.1
        # The constants of nature of LAMMPS and ASE differ in the seventh digit.
        assert apart.max() < 1e-4
        assert found["last_energy"] == pytest.approx(atoms.get_potential_energy(), abs=1e-4)
