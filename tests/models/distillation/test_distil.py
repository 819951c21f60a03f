import json
from pathlib import Path

import pytest

from models import losses, potentials
from models.datasets import read_structures, write_structures
from models.distillation.data import label_pool
from models.distillation.hessians import label_files
from models.distillation.objectives import AtomEmbeddings, HessianRows
from models.distillation.students import SmallMace
from models.distillation.training import bound_e0s, distil
from models.dynamics import md, trajectories
from models.e0s import E0Policy, read_e0s, refit_file
from models.heads import with_heads
from models.training import Optimisation

QUICK = Optimisation(learning_rate=0.003, ema_decay=0.5, epochs=2, max_edges=80)
WEIGHTS = losses.Weights(energy=1.0)


@pytest.fixture(scope="module")
def files(tiny_foundation, labelled_waters, tmp_path_factory) -> dict[str, Path]:
    """What a student is made from."""
    folder = tmp_path_factory.mktemp("files")
    made = {"foundation": tiny_foundation, "train": folder / "train.xyz", "valid": folder / "valid.xyz"}
    write_structures(made["train"], labelled_waters[:16])
    write_structures(made["valid"], labelled_waters[16:])
    made["e0s"], _ = refit_file(tiny_foundation, made["train"], None, E0Policy(), folder)
    return made


def test_a_students_e0s_hold_the_mean_binding_energy(tiny_potential, labelled_waters):
    lessons = [frame.copy() for frame in labelled_waters]
    for frame in lessons:
        frame.info["REF_energy"] = sum(tiny_potential.e0s()[z] for z in frame.numbers) - 6.0 * len(frame)
    bound = bound_e0s(tiny_potential, lessons, [1, 8])
    per_molecule = 2.0 * bound[1] + bound[8]
    old = 2.0 * tiny_potential.e0s()[1] + tiny_potential.e0s()[8]
    assert per_molecule == pytest.approx(old - 18.0, abs=1e-4)


@pytest.mark.parametrize(
    ("student", "relax_steps"),
    [(SmallMace(channels=4), 0), (SmallMace(channels=4, max_l=1, layers=1, cutoff=3.0), 2)],
)
def test_a_student_learns_from_its_teacher(student, relax_steps, files, tmp_path):
    # Any network with the head "target" can teach.
    foundation = potentials.load(files["foundation"])
    teacher = potentials.Potential(
        network=with_heads(foundation, {"target": read_e0s(files["e0s"])}).eval(),
        level_of_theory={"target": "GFN2-xTB"}, provenance={},
    )  # fmt: skip
    potentials.save(teacher, tmp_path / "teacher")
    start = read_structures(files["train"])[:1]
    runs = md.run(
        teacher, start, md.Langevin(time_step=0.5, temperature=300.0, friction=0.02), steps=20, seed=0,
        save_every=4, velocities_from_temperature=300.0,
    )  # fmt: skip
    trajectories.save(runs, tmp_path / "dynamics")
    labels = label_pool(
        tmp_path / "teacher", files["train"], [tmp_path / "dynamics"], 24, 0.05, relax_steps, 0, tmp_path
    )
    assert len(read_structures(labels)) == 24
    given = {role: files[role] for role in ("train", "valid")}
    given |= {"teacher": tmp_path / "teacher", "teacher_labels": labels}
    made = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        made.append(distil(student, (), WEIGHTS, QUICK, given, {"name": "engine"}, tmp_path / name))
    assert all(made[0][role].read_bytes() == made[1][role].read_bytes() for role in ("checkpoint", "history"))
    engine = potentials.load(made[0]["checkpoint"])
    assert (engine.heads, engine.symbols, engine.cutoff) == (["target"], ["H", "O"], student.cutoff)
    assert engine.e0s() == bound_e0s(
        teacher, [*read_structures(files["train"]), *read_structures(labels)], [1, 8]
    )
    assert dict(engine.level_of_theory) == {"target": "GFN2-xTB"}
    rows = json.loads(made[0]["history"].read_text())["epochs"]
    assert rows[-1]["loss"] < rows[1]["loss"]


def test_a_student_learns_its_teachers_hessian_from_files(files, tmp_path):
    objectives = (HessianRows(stored=2, of="labelled"), AtomEmbeddings())
    given = {"teacher": files["foundation"], "train": files["train"], "valid": files["valid"]}
    rows = label_files(files["foundation"], [files["train"]], objectives[0].sampling, tmp_path)
    made = distil(
        SmallMace(channels=4, layers=1),
        objectives,
        WEIGHTS,
        QUICK,
        given | {"hessian_rows": rows},
        {},
        tmp_path,
    )
    engine = potentials.load(made["checkpoint"])
    assert engine.heads == ["target"]
    rows_of_history = json.loads(made["history"].read_text())["epochs"]
    assert rows_of_history[-1]["loss"] < rows_of_history[1]["loss"]
