import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from models.datasets import write_structures
from models.dynamics import trajectories
from models.dynamics.trajectories import Trajectory
from models.validation.base import Subject
from models.validation.distributions import Distributions, Dynamics

INTERVAL = 20.0  # fs


def walk(seed: int, diffusion: float, frames: int = 60, atoms: int = 40) -> np.ndarray:
    """Positions (frames, atoms, 3), Å, of Brownian particles with this diffusion coefficient, Å²/ps."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(scale=np.sqrt(2.0 * diffusion * 1e-3 * INTERVAL), size=(frames, atoms, 3))
    return rng.uniform(0.0, 12.0, size=(atoms, 3)) + steps.cumsum(axis=0)


def run(positions: np.ndarray, lengths: np.ndarray) -> Trajectory:
    """Argon in cubic cells whose `lengths` (frames,), Å, may move."""
    n_frames, n_atoms, _ = positions.shape
    return Trajectory(
        numbers=np.full(n_atoms, 18),
        cell=lengths[:, None, None] * np.eye(3),
        pbc=np.ones(3, dtype=bool),
        times_fs=INTERVAL * np.arange(n_frames),
        positions=positions,
        potential_energy=np.zeros(n_frames),
        kinetic_energy=np.zeros(n_frames),
        temperature=np.full(n_frames, 300.0),
        failure=None,
    )


def subject(tmp_path, tiny_potential, reference: list[Trajectory], model: list[Trajectory]) -> Subject:
    frames = [
        frame
        for k, trajectory in enumerate(reference)
        for frame in trajectory.to_atoms()
        if not frame.info.update(trajectory=f"r{k}")
    ]
    write_structures(tmp_path / "reference.extxyz", frames)
    trajectories.save(model, tmp_path / "md.safetensors")
    files = {"reference": tmp_path / "reference.extxyz", "trajectories": tmp_path / "md.safetensors"}
    return Subject(potential=tiny_potential, files=files)


def moving(length: float, seed: int, frames: int = 60) -> np.ndarray:
    return length * (1.0 + np.random.default_rng(seed).normal(scale=0.003, size=frames))


def test_density_and_diffusion_are_compared_where_the_reference_has_them(tiny_potential, tmp_path):
    reference = [run(walk(k, 0.5), moving(13.0, k)) for k in range(4)]
    model = [run(walk(10 + k, 1.0), moving(13.0 * 1.1 ** (1 / 3), 10 + k)) for k in range(4)]
    found = Distributions(r_max=5.0).measure(subject(tmp_path, tiny_potential, reference, model))
    assert found.figures["density"].value == pytest.approx(100.0 * (1.0 - 1.0 / 1.1), abs=0.5)
    assert found.figures["diffusion"].value == pytest.approx(100.0, rel=0.25)
    tables = {table.title: table for table in found.tables}
    mass = 40 * Atoms("Ar").get_masses()[0]
    assert tables["Density"].rows[0][1] == pytest.approx(1.66054 * mass / 13.0**3, rel=0.01)
    (argon,) = tables["Diffusion"].rows
    assert argon[1:3] == pytest.approx([1.0, 0.5], rel=0.2)


def test_a_cell_that_rests_has_no_density_to_compare_and_frames_without_times_no_diffusion(
    tiny_potential, tmp_path
):
    still = np.full(60, 13.0)
    it = subject(tmp_path, tiny_potential, [run(walk(0, 0.5), still)], [run(walk(1, 0.5), still)])
    assert "diffusion" in (found := Distributions(r_max=5.0).measure(it)).figures
    assert "density" not in found.figures
    frames = it.structures("reference")
    for frame in frames:
        del frame.info["time_fs"]
    write_structures(it.files["reference"], frames)
    assert "diffusion" not in Distributions(r_max=5.0).measure(it).figures


def test_the_same_dynamics_has_no_distance_and_its_replicas_are_samples(tiny_potential, tmp_path):
    runs = [run(walk(k, 0.5), np.full(60, 13.0)) for k in range(3)]
    found = Distributions(equilibration=0.0, r_max=5.0).measure(
        subject(tmp_path, tiny_potential, [run(r.positions[1:], np.full(59, 13.0)) for r in runs], runs)
    )
    assert found.figures["emd"].value == pytest.approx(0.0, abs=1e-9)
    assert set(found.figures["replica_emd"].samples) == {"replica 0", "replica 1", "replica 2"}
    assert found.figures["replica_emd"].value > 0.0


def test_water_that_falls_apart_and_replicas_that_end_early_are_counted(tiny_potential, tmp_path):
    water = molecule("H2O")
    pulled = np.stack([water.positions + k * np.array([[0, 0, 0], [0, 0.5, 0], [0, 0, 0]]) for k in range(4)])
    whole = np.stack([water.positions] * 4)
    runs = []
    for positions in (pulled, whole):
        it = run(positions, np.full(4, 20.0))
        runs.append(Trajectory(**{**vars(it), "numbers": water.numbers, "pbc": np.zeros(3, dtype=bool)}))
    trajectories.save(runs, tmp_path / "md.safetensors")
    found = Dynamics().measure(
        Subject(potential=tiny_potential, files={"trajectories": tmp_path / "md.safetensors"})
    )
    assert found.figures["whole"].value == 50.0
    assert found.figures["finished"].value == 100.0
    assert found.tables[0].rows[0][4].startswith("O0–H1 after")
