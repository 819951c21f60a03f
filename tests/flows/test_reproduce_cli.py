"""A short lineage of real steps, recorded without a server, computed again in another store."""

import contextlib
import platform
import shutil
import sqlite3
from collections.abc import Mapping
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from db import aliases, artifacts, retractions, trust
from db.lineage import ancestors
from db.steps import Output, once, step_key
from flows.reproduce_cli import app
from models import datasets, potentials
from models.campaign import Campaign, FoundationChoice
from models.campaign_files import load
from models.foundation import Untrusted
from tasks import reproduction
from tasks.datasets import ingest_labels, pseudolabel_replay
from tasks.distillation import distil, label_curvature, label_for_student
from tasks.foundation import resolve_foundation
from tasks.reproduction_plan import KINDS, NotReproducible, prepare
from tasks.training import fine_tune, refit_e0s
from tasks.validation import simulate

OF_ROUNDS = {"fit_uncertainty", "explore", "select", "label", "merge_labels"}
"""Kinds that lie behind checkpoints of active rounds only; those are computed again in `test_rounds.py`."""

SHORT = {
    "candidates": [
        {
            "kind": "pseudolabelled_replay",
            "optimisation": {"learning_rate": 0.01, "clip_gradient": 10.0, "epochs": 1},
        }
    ],
    "simulation.duration": 4.0,
    "student.optimisation.epochs": 1,
}


def lessons(campaign: Campaign) -> dict[str, str]:
    """What the candidate of a campaign is made from."""
    start = resolve_foundation.fn(campaign.foundation)
    data = ingest_labels.fn(campaign)
    given = {"foundation": start, "e0s": refit_e0s.fn(campaign, start, data)}
    given |= {role: data[role] for role in ("train", "valid")}
    for head in campaign.further:
        other = ingest_labels.fn(campaign, head)
        given |= {f"{head}.{role}": other[role] for role in ("train", "valid")}
        given[f"{head}.e0s"] = refit_e0s.fn(campaign, start, other, head)
    replay = pseudolabel_replay.fn(campaign.replay, start)
    return given | {role: replay[part] for role, part in campaign.candidates[0].replay_parts.items()}


@pytest.fixture(scope="module")
def recorded(mini: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Campaign]:
    """A home with `mini@champion` and `mini@engine` in it, and their campaign. Only to be read."""
    home = tmp_path_factory.mktemp("recorded")
    pickle = tmp_path_factory.mktemp("elsewhere") / "theirs.model"
    potentials.export_mace(potentials.load(mini.with_name("foundation.safetensors")), pickle)
    campaign = load(mini, {**SHORT, "foundation.name": str(pickle)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEMPER_HOME", str(home))
        trust.trust(pickle, "model-file", "made here")
        given = lessons(campaign)
        champion = fine_tune.fn(campaign, campaign.candidates[0], given)["checkpoint"]
        run = simulate.fn("champion", campaign.simulation, champion, given["train"])
        labels = label_for_student.fn(campaign, champion, given["train"], [run])
        (rows,) = campaign.student.curvatures
        shown = {"train": given["train"], "teacher_labels": labels}
        taught = {"teacher": champion, "valid": given["valid"], **shown}
        taught["hessian_rows"] = label_curvature.fn(campaign, rows, champion, shown)
        engine = distil.fn(campaign, taught)["checkpoint"]
        aliases.promote("mini@champion", champion, reason="test")
        aliases.promote("mini@engine", engine, reason="test")
    return home, campaign


@pytest.fixture
def record(recorded: tuple[Path, Campaign], temper_home: Path) -> Campaign:
    """That home as the test's own, to do with as it likes; the value is the campaign."""
    home, campaign = recorded
    shutil.copytree(home, temper_home)
    return campaign


def reproduce(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def execute(home: Path, statement: str, *values: str) -> None:
    """Change the record behind Temper's back."""
    with contextlib.closing(sqlite3.connect(home / "temper.db")) as record:
        record.execute(statement, values)
        record.commit()


def spoil(artifact_id: str) -> None:
    """Change the bytes of a file in the store."""
    path = artifacts.path(artifact_id)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes() + b"\n")


def imported(name: str) -> str:
    """The id of an imported file behind the engine."""
    lineage = ancestors(artifacts.find("mini@engine").id)
    (found,) = (a.id for a in lineage.artifacts.values() if a.name == name and a.id not in lineage.made_by)
    return found


def test_a_whole_lineage_comes_out_the_same_byte_for_byte(record: Campaign, tmp_path: Path) -> None:
    home = tmp_path / "again"
    before = artifacts.find("mini@engine")
    told = reproduce("mini@engine", "--keep", str(home))
    assert told.exit_code == 0, told.output
    assert told.output.splitlines()[-1] == "Verdict: identical"
    lines = [line for line in told.output.splitlines() if " s then, " in line]
    assert len(lines) == len(prepare(before.id).steps) == 11
    assert all(": identical (" in line for line in lines)
    kinds = [line.split()[0] for line in lines]
    assert (set(kinds), kinds[-1]) == (set(KINDS) - OF_ROUNDS, "distil")
    # Nothing but the imported files was taken over.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEMPER_HOME", str(home))
        after = artifacts.find(before.id)
        assert (after.name, after.metadata) == (before.name, before.metadata)
        assert after.created_at > before.created_at
        assert aliases.all() == []


def test_a_step_has_the_key_that_it_always_had(record: Campaign) -> None:
    lineage = ancestors(artifacts.find("mini@engine").id)
    for step in lineage.steps.values():
        used: dict[str, list[str]] = {}
        for edge in lineage.used[step.key]:
            used.setdefault(edge.role, []).append(edge.artifact_id)
        assert step_key(step.kind, step.version, step.parameters, used, step.seed) == step.key
    seen = {
        step.kind: (step.version, step.seed, frozenset(step.parameters)) for step in lineage.steps.values()
    }
    simulation = record.simulation.model_dump(exclude={"seed"})
    assert seen == {
        "resolve_foundation": (1, None, {"name", "head"}),
        "ingest_labels": (1, 0, {"names", "units", "split"}),
        "pseudolabel_replay": (2, 0, {"n_structures", "labels_level"}),
        "refit_e0s": (2, None, {"policy", "energies", "ridge"}),
        "fine_tune": (2, 0, frozenset(record.candidates[0].model_dump())),
        "simulate": (4, 0, frozenset(simulation)),
        "label_for_student": (3, 0, {"n_structures", "rattle", "relax_steps"}),
        "label_curvature": (1, None, {"directions", "number", "seed"}),
        "distil": (3, 0, {"architecture", "objectives", "weights", "optimisation"}),
    }


def ingested_elsewhere(campaign: Campaign, error: float) -> tuple[Campaign, Mapping[str, str]]:
    """Labels that another machine read with an error (eV/atom): the campaign that asked, and the parts."""
    asked = campaign.model_copy(update={"split": campaign.split.model_copy(update={"seed": 1})})
    parameters = asked.model_dump(include={"labels": {"names", "units"}, "split": True})
    parameters |= parameters.pop("labels")
    said = {"level_of_theory": "GFN2-xTB", "licence": "CC0-1.0"}

    def compute(work: Path) -> dict[str, Output]:
        labels = campaign.labels
        parts = datasets.ingest(labels.path, labels.names, labels.units, asked.split, work)
        frames = datasets.read_structures(parts["train"].path)
        for frame in frames:
            frame.info["REF_energy"] += error * len(frame)
        datasets.write_structures(parts["train"].path, frames)
        return {
            role: Output(path=part.path, kind="dataset", name=f"mini-{role}", metadata=said)
            for role, part in parts.items()
        }

    labels = {"labels": imported("labels.extxyz")}
    return asked, once("ingest_labels", 1, parameters, labels, compute, seed=1).outputs


def test_the_first_step_that_comes_out_differently_is_named(record: Campaign, mini: Path) -> None:
    campaign, data = ingested_elsewhere(record, 0.01)
    start = resolve_foundation.fn(FoundationChoice(name=str(mini.with_name("foundation.safetensors"))))
    told = reproduce(refit_e0s.fn(campaign, start, data))
    assert told.exit_code == 1
    assert "ingest_labels mini-train, mini-valid: different (" in told.output
    assert "\n  train: REF_energy per atom: 0.01 apart, 0.01 of its range\n" in told.output
    assert "refit_e0s mini-e0s: different, on inputs that had come out differently (" in told.output
    assert told.output.splitlines()[-2:] == [
        "First difference: ingest_labels mini-train, mini-valid",
        "Verdict: different",
    ]


def test_rounding_is_told_from_a_difference_with_what_may_be_its_cause(
    record: Campaign, temper_home: Path
) -> None:
    _, data = ingested_elsewhere(record, 1e-7)
    execute(
        temper_home, "UPDATE step SET software = ?", '{"python": "3.99", "children": {"torch_threads": 4}}'
    )
    told = reproduce(data["train"])
    assert told.exit_code == 0, told.output
    lines = told.output.splitlines()
    assert f"  python: 3.99 then, {platform.python_version()} now" in lines
    assert "  children.torch_threads: 4 then, 1 now" in lines
    assert "  machine: not on record then, on record now" in lines  # as of records from before there was any
    first, verdict = lines[-2:]
    assert first == "First difference: ingest_labels mini-train"
    assert verdict == "Verdict: equal within tolerance"


def test_an_output_beside_the_lineage_is_told_but_does_not_count(record: Campaign, temper_home: Path) -> None:
    champion = artifacts.find("mini@champion").id
    execute(temper_home, "UPDATE generated SET artifact_id = ? WHERE role = 'test'", champion)
    told = reproduce(ingest_labels.fn(record)["train"])
    assert told.exit_code == 0, told.output
    assert "\n  test, on which nothing here rests: the bytes\n" in told.output
    assert told.output.splitlines()[-1] == "Verdict: identical"


def test_an_output_that_was_exchanged_on_record_is_refused(record: Campaign, temper_home: Path) -> None:
    data, champion = ingest_labels.fn(record), artifacts.find("mini@champion").id
    execute(temper_home, "UPDATE generated SET artifact_id = ? WHERE role = 'train'", data["test"])
    with pytest.raises(
        NotReproducible, match=r"dataset 'mini-train' \(.*: the step that made it was done again"
    ):
        prepare(champion)


def test_a_step_that_fails_now_is_a_verdict_too(record: Campaign, tmp_path: Path) -> None:
    (tmp_path / "labels.extxyz").write_text("2\nno labels\n")
    labels = artifacts.import_file(tmp_path / "labels.extxyz", "labels", "labels.extxyz").id
    (work := tmp_path / "train.extxyz").write_text("made by some other means")
    output = {"train": Output(path=work, kind="dataset", name="mini-train")}
    parameters = record.model_dump(include={"labels": {"names", "units"}, "split": True})
    parameters |= parameters.pop("labels")
    made = once("ingest_labels", 1, parameters, {"labels": labels}, lambda _: output, seed=0).outputs
    told = reproduce(made["train"])
    assert told.exit_code == 1
    assert "ingest_labels mini-train: failed (" in told.output
    assert "labels.extxyz: cannot be read as extended XYZ" in told.output
    assert told.output.splitlines()[-1] == "Verdict: failed"


def test_a_pickle_that_is_not_trusted_any_more_is_not_opened_again(record: Campaign) -> None:
    retractions.retract(imported("theirs.model"), "made elsewhere")
    with pytest.raises(Untrusted, match=r"Nobody vouches for its sha256 \w{64}"):
        prepare(artifacts.find("mini@engine").id)


def test_an_input_that_is_damaged_or_gone_is_refused(record: Campaign) -> None:
    spoil(imported("labels.extxyz"))
    artifacts.path(imported("replay.extxyz")).unlink()
    engine = artifacts.find("mini@engine").id
    with pytest.raises(NotReproducible) as refusal:
        prepare(engine)
    for kind, name in (("labels", "labels.extxyz"), ("structures", "replay.extxyz")):
        said = f"{kind} '{name}' ({imported(name)[:12]}): its file is gone or has changed; import it again"
        assert said in str(refusal.value)


def test_a_step_of_another_version_names_who_can_compute_it(record: Campaign, temper_home: Path) -> None:
    execute(temper_home, "UPDATE step SET version = 1 WHERE kind = 'fine_tune'")
    with pytest.raises(
        NotReproducible, match=r"step fine_tune \w{12} is of version 1, .* version 2; use .*Temper 0"
    ):
        prepare(artifacts.find("mini@champion").id)


def test_a_record_that_was_changed_is_refused(record: Campaign, temper_home: Path) -> None:
    execute(temper_home, "UPDATE step SET seed = 7 WHERE kind = 'distil'")
    with pytest.raises(
        NotReproducible, match=r"step distil \w{12}: its parameters, inputs or seed on record"
    ):
        prepare(artifacts.find("mini@engine").id)


def test_what_was_imported_is_not_computed(record: Campaign) -> None:
    with pytest.raises(NotReproducible, match=r"labels 'labels.extxyz' .* nothing to compute again"):
        prepare(imported("labels.extxyz"))


def test_a_person_is_warned_of_what_is_retracted_and_what_cannot_be_compared(record: Campaign) -> None:
    retractions.retract(imported("labels.extxyz"), "wrong charge")
    champion = artifacts.find("mini@champion")
    spoil(champion.id)
    gone, tainted = prepare(champion.id).warnings
    assert "only its hash can be compared" in gone
    assert tainted.endswith("wrong charge")


def test_a_folder_with_something_in_it_is_not_computed_in(record: Campaign, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "thesis.tex").touch()
    with pytest.raises(NotReproducible, match=r"kept is not empty"):
        reproduction.reproduce(prepare(artifacts.find("mini@champion").id), tmp_path / "kept")
