from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from db import aliases
from db.agent import who
from db.artifacts import Artifact
from db.errors import BadRetraction, Retracted, UnknownArtifact
from db.retractions import all_tainted, history, reinstate, retract, tainted
from db.session import now, one_at_a_time, session
from db.tables import RetractionEventRow

Import = Callable[..., Artifact]
Make = Callable[..., str]


@pytest.fixture
def ids(imported: Import, made: Make) -> dict[str, str]:
    """Labels and a foundation, a teacher of both, a student of labels and teacher, and a sibling."""
    labels, foundation = imported("labels", "labels").id, imported("foundation", "foundation").id
    teacher = made("teacher", {"data": labels, "model": foundation})
    student = made("student", {"data": labels, "teacher": teacher})
    sibling = made("sibling", {"model": foundation})
    return {
        "labels": labels,
        "foundation": foundation,
        "teacher": teacher,
        "student": student,
        "sibling": sibling,
    }


def named(ids: dict[str, str]) -> dict[str, str]:
    """What is tainted, and by the retraction of what; the same whichever way it is asked."""
    everywhere = {name: all_tainted().get(id_) for name, id_ in ids.items()}
    assert everywhere == {name: tainted(id_) for name, id_ in ids.items()}
    return {name: retraction.artifact.name for name, retraction in everywhere.items() if retraction}


def test_nothing_is_tainted_at_first(ids: dict[str, str]) -> None:
    assert named(ids) == {}
    assert all_tainted() == {}


def test_a_retraction_taints_what_is_made_from_it_then_and_later(ids: dict[str, str], made: Make) -> None:
    retraction = retract(ids["labels"], " wrong units\n")
    assert (retraction.artifact.id, retraction.by, retraction.reason) == (ids["labels"], who(), "wrong units")
    assert named(ids) == {"labels": "labels", "teacher": "labels", "student": "labels"}
    later = made("later", {"teacher": ids["student"]})
    assert tainted(later) == retraction
    assert retraction.about(ids["labels"]) == (
        f"retracted on {retraction.at:%Y-%m-%d} by {who()}: wrong units"
    )
    assert retraction.about(later).startswith(
        f"made from dataset 'labels' ({ids['labels'][:12]}), which was retracted on "
    )


def test_its_own_retraction_comes_first_then_the_oldest(ids: dict[str, str]) -> None:
    retract(ids["student"], "diverged")
    retract(ids["foundation"], "not ours")
    retract(ids["labels"], "wrong units")
    assert named(ids) == {
        "labels": "labels",
        "foundation": "foundation",
        "teacher": "foundation",
        "student": "student",
        "sibling": "foundation",
    }
    reinstate(ids["foundation"])
    assert named(ids) == {"labels": "labels", "teacher": "labels", "student": "student"}


def test_everything_stays_on_record(ids: dict[str, str]) -> None:
    labels = ids["labels"]
    retract(labels, "wrong units")
    retract(labels, "wrong units, and wrong cells")
    reinstate(labels, "both were right")
    assert named(ids) == {}
    retract(labels, "they were not")
    assert [(event.event, event.reason) for event in history(labels)] == [
        ("retracted", "wrong units"),
        ("retracted", "wrong units, and wrong cells"),
        ("reinstated", "both were right"),
        ("retracted", "they were not"),
    ]
    assert {event.by for event in history(labels)} == {who()}
    times = [event.at for event in history(labels)]
    assert times == sorted(times)
    found = tainted(ids["student"])
    assert found is not None
    assert (found.reason, found.at) == ("they were not", times[-1])
    assert history(ids["teacher"]) == []


def test_what_is_tainted_cannot_be_promoted_and_what_was_can_be_looked_at(ids: dict[str, str]) -> None:
    aliases.promote("salt@champion", ids["teacher"], reason="good")
    retract(ids["labels"], "wrong units")
    assert aliases.resolve("salt@champion").id == ids["teacher"]
    for name, id_ in (("salt@engine", ids["student"]), ("salt@champion", ids["teacher"])):
        with pytest.raises(
            Retracted,
            match=rf"alias {name}: checkpoint .* was made from dataset 'labels' \({ids['labels'][:12]}\), "
            rf"which was retracted .*: wrong units. Promote .* temper reinstate {ids['labels'][:12]}$",
        ):
            aliases.promote(name, id_, reason="better")
    with pytest.raises(Retracted, match=r"dataset 'labels' \(\w+\) was retracted on"):
        aliases.promote("salt@labels", ids["labels"], reason="better")
    aliases.promote("salt@sibling", ids["sibling"], reason="not made from the labels")
    assert [alias.name for alias in aliases.all()] == ["salt@champion", "salt@sibling"]
    reinstate(ids["labels"])
    aliases.promote("salt@engine", ids["student"], reason="better")
    assert aliases.resolve("salt@engine").id == ids["student"]


def test_only_what_is_retracted_itself_can_be_reinstated(ids: dict[str, str]) -> None:
    with pytest.raises(BadRetraction, match=r"dataset 'labels' \(\w+\) is not retracted$"):
        reinstate(ids["labels"])
    retract(ids["labels"], "wrong units")
    with pytest.raises(
        BadRetraction, match=r"is not retracted itself, it was made from dataset 'labels' .* reinstate that"
    ):
        reinstate(ids["student"])
    assert tainted(ids["student"]) is not None


def test_a_reason_and_an_artifact_are_needed(ids: dict[str, str]) -> None:
    with pytest.raises(BadRetraction, match="needs a reason"):
        retract(ids["labels"], "  ")
    for ask in (retract, reinstate):
        with pytest.raises(UnknownArtifact, match="no artifact has the id '0000"):
            ask("0" * 64, "reason")
    assert named(ids) == {}
    assert tainted("0" * 64) is None


def test_promotion_waits_for_a_retraction_that_is_under_way(ids: dict[str, str]) -> None:
    with ThreadPoolExecutor(1) as pool:
        with session() as s:
            one_at_a_time(s)
            s.add(
                RetractionEventRow(
                    artifact_id=ids["labels"], event="retracted", at=now(s), by=who(), reason="units"
                )
            )
            s.flush()
            promotion = pool.submit(aliases.promote, "a@champion", ids["student"], reason="accepted")
            with pytest.raises(TimeoutError):
                promotion.result(timeout=1.0)
        with pytest.raises(Retracted, match="units"):
            promotion.result()
