from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from models import potentials
from models.heads import with_heads
from models.potentials import Potential
from models.reference.xtb import calculator, labelled_copy
from models.systems.packing import pack

ELEMENTS = [1, 8, 11, 17]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_potential() -> Potential:
    """A freshly initialised network of H, O, Na and Cl, with ZBL repulsion, in float64."""
    torch.manual_seed(0)
    description = {
        "r_max": 4.0,
        "num_bessel": 6,
        "num_polynomial_cutoff": 5,
        "max_ell": 2,
        "interaction_cls": "RealAgnosticResidualInteractionBlock",
        "interaction_cls_first": "RealAgnosticDensityInteractionBlock",
        "num_interactions": 2,
        "num_elements": len(ELEMENTS),
        "hidden_irreps": "8x0e+8x1o",
        "MLP_irreps": "8x0e",
        "atomic_energies": [[-1.1 * z for z in ELEMENTS]],
        "avg_num_neighbors": 12.0,
        "atomic_numbers": ELEMENTS,
        "correlation": 2,
        "gate": "silu",
        "radial_MLP": [16, 16],
        "radial_type": "bessel",
        "pair_repulsion": True,
        "distance_transform": "Agnesi",
        "atomic_inter_scale": [1.0],
        "atomic_inter_shift": [0.0],
        "heads": ["Default"],
        "readout_cls": "NonLinearReadoutBlock",
    }
    network = potentials.build(description, torch.float64)
    return Potential(network=network.eval(), level_of_theory={"Default": "none"}, provenance={"name": "tiny"})


@pytest.fixture(scope="session")
def two_heads(tiny_potential: Potential) -> Potential:
    """The tiny network with the heads `replay` and `target`, 3 eV per atom apart."""
    old = tiny_potential.e0s()
    e0s = {"replay": old, "target": {z: e - 3.0 for z, e in old.items()}}
    network = with_heads(tiny_potential, e0s)
    return Potential(network=network.eval(), level_of_theory=dict.fromkeys(e0s, "none"), provenance={})


@pytest.fixture(scope="session")
def tiny_foundation(tiny_potential: Potential, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of the tiny network in float32, as a foundation is."""
    path = tmp_path_factory.mktemp("foundation") / "tiny.safetensors"
    potentials.save(tiny_potential, path)
    potentials.save(potentials.load(path, torch.float32), path)
    return path


@pytest.fixture(scope="session")
def labelled_waters() -> list[Atoms]:
    """Six short trajectories of one or two water molecules, labelled at GFN2-xTB."""
    rng = np.random.default_rng(0)
    frames = []
    for trajectory in range(6):
        start = pack([molecule("H2O")] * (1 + trajectory % 2), rng, closest=1.8)
        for _ in range(4):
            frame = start.copy()
            frame.positions += rng.normal(scale=0.05, size=frame.positions.shape)
            frame.calc = calculator("GFN2-xTB")
            frame.info |= {"trajectory": f"w{trajectory}", "family": "water"}
            frames.append(labelled_copy(frame))
    return frames


@pytest.fixture
def salt_crystal() -> Atoms:
    """64 atoms of rock salt, slightly shaken."""
    crystal = bulk("NaCl", "rocksalt", a=5.64, cubic=True).repeat(2)
    crystal.rattle(0.05, seed=1)
    return crystal


@pytest.fixture
def salt_water() -> Atoms:
    """Na+, Cl- and three water molecules, not periodic."""
    places = [(3.0, 0.0, 0.0), (0.0, 3.0, 0.0), (0.0, 0.0, 3.0)]
    cluster = Atoms("NaCl", [(0.0, 0.0, 0.0), (-2.5, 0.0, 0.0)])
    for k, place in enumerate(places):
        water = molecule("H2O")
        water.rotate(40.0 * k, "x")
        water.translate(np.array(place))
        cluster += water
    return cluster
