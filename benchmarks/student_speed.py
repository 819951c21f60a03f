"""How many times faster is a student's dynamics than that of its teacher, and of one as large as they come?

Teachers are the shipped foundation and a MACE of the size of MACE-MPA-0 medium, whose weights are drawn at
random: they do not matter for its speed. Boxes of salt water move at constant energy, teacher and student in
turn, so that a busy machine slows both alike.
"""

import time
from collections.abc import Sequence
from statistics import median

import numpy as np
import torch
from ase import Atoms
from dynamics import salt_water

from models import losses, potentials
from models.distillation.students import Ace, Student
from models.distillation.training import bound_e0s
from models.dynamics.md import VelocityVerlet, run
from models.foundation import shipped
from models.graphs import graph
from models.potentials import Potential, load
from models.pseudolabels import pseudolabel
from models.tracing import CALLS, traced
from models.training import Optimisation, TrainingSetup, fit

PLACES = {50: (3, 3, 2), 200: (6, 4, 3), 800: (6, 6, 8)}  # of molecules and ions
TIME_STEP = 0.5  # fs
TEMPERATURE = 300.0  # K


def mpa_sized(elements: Sequence[int]) -> Potential:
    """A MACE of the size of MACE-MPA-0 medium for these elements, with random weights."""
    description = {
        "r_max": 6.0,
        "num_bessel": 10,
        "num_polynomial_cutoff": 5,
        "max_ell": 3,
        "interaction_cls_first": "RealAgnosticResidualInteractionBlock",
        "interaction_cls": "RealAgnosticResidualInteractionBlock",
        "num_interactions": 2,
        "num_elements": len(elements),
        "hidden_irreps": "128x0e+128x1o",
        "MLP_irreps": "16x0e",
        "gate": "silu",
        "readout_cls": "NonLinearReadoutBlock",
        "atomic_energies": [[0.0] * len(elements)],
        "avg_num_neighbors": 60.0,
        "atomic_numbers": list(elements),
        "correlation": 3,
        "radial_MLP": [64, 64, 64],
        "radial_type": "bessel",
        "pair_repulsion": False,
        "distance_transform": "None",
        "atomic_inter_scale": [1.0],
        "atomic_inter_shift": [0.0],
        "heads": ["target"],
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = potentials.build(description)
    return Potential(network=network.eval(), level_of_theory={"target": "none"}, provenance={})


def seconds_per_step(potential: Potential, start: Atoms, steps: int) -> float:
    """Wall time of one step of one replica, s."""
    began = time.perf_counter()
    run(
        potential,
        [start],
        VelocityVerlet(time_step=TIME_STEP),
        steps=steps,
        seed=0,
        save_every=steps,
        velocities_from_temperature=TEMPERATURE,
    )
    return (time.perf_counter() - began) / (steps + 1)


def taught(student: Student, teacher: Potential, box: Atoms) -> Potential:
    """A student that knows this box well enough to keep it together for a while."""
    rng = np.random.default_rng(0)
    copies = []
    for _ in range(24):
        copies.append(box.copy())
        copies[-1].positions += rng.normal(scale=0.06, size=box.positions.shape)
    elements = sorted(set(box.numbers.tolist()))
    lessons = pseudolabel(teacher, copies)
    items = [graph(atoms, elements, student.cutoff) for atoms in lessons]
    setup = TrainingSetup(
        network=student.network(bound_e0s(teacher, lessons, elements), items, seed=0),
        train=items,
        valid={"target": items[:2]},
        weights=[losses.Weights(energy=1.0, forces=10.0)],
    )
    optimisation = Optimisation(
        learning_rate=0.02, decay="cosine", ema_decay=0.9, clip_gradient=10.0, epochs=12, max_edges=4000
    )
    fitted = fit(setup, optimisation)
    return Potential(network=fitted.network, level_of_theory={"target": "none"}, provenance={})


def speeds(
    sizes: Sequence[int] = tuple(PLACES), student: Student | None = None, rounds: int = 3
) -> list[tuple[str, float, str]]:
    """Figures: steps per second of each, and the `student`'s (default: the fastest) over each teacher's.

    Ratios are medians over the rounds of pairs that were measured one right after the other.
    """
    shipped_teacher = load(shipped()["temper-gfn1"])
    boxes = {size: salt_water(PLACES[size], shipped_teacher) for size in sizes}
    smallest = boxes[min(sizes)]
    small = traced(taught(student or Ace(), shipped_teacher, smallest))
    elements = sorted(set(smallest.numbers.tolist()))
    teachers = {"shipped": traced(shipped_teacher), "mpa_sized": mpa_sized(elements)}
    seconds_per_step(teachers["mpa_sized"], smallest, 2)
    found = []
    for size, box in boxes.items():
        seconds_per_step(small, box, 3 * CALLS)  # its operations are written down
        for name, teacher in teachers.items():
            steps = max(1, (2000 if name == "shipped" else 100) // size)
            if name == "shipped":
                seconds_per_step(teacher, box, CALLS + 10)
            pairs = [
                (seconds_per_step(teacher, box, steps), seconds_per_step(small, box, 8000 // size))
                for _ in range(rounds if name == "shipped" else 1)
            ]
            ratio = median(theirs / ours for theirs, ours in pairs)
            found.append((f"speed_over_{name}_teacher[{size}]", ratio, "×"))
            found.append((f"{name}_teacher[{size}]", 1.0 / median(theirs for theirs, _ in pairs), "steps/s"))
            if name == "shipped":
                found.append((f"student[{size}]", 1.0 / median(ours for _, ours in pairs), "steps/s"))
    return found
