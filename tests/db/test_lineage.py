from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from db.artifacts import Artifact
from db.errors import UnknownArtifact
from db.lineage import Node, ancestors, descendants, tree
from db.steps import Output, once

Import = Callable[..., Artifact]


def make(name: str, text: str, inputs: Mapping[str, str | Sequence[str]], seed: int | None = None) -> str:
    """Run a step that makes one file; its id."""

    def compute(work: Path) -> Mapping[str, Output]:
        path = work / "out.txt"
        path.write_text(text)
        return {"out": Output(path=path, kind="file", name=name)}

    return once(name, 1, {"name": name}, inputs, compute, seed=seed).outputs["out"]


def outline(node: Node, depth: int = 0) -> list[str]:
    mark = " again" if node.repeated else ""
    lines = [f"{'  ' * depth}{node.role}: {node.artifact.name}{mark}"]
    return lines + [line for parent in node.parents for line in outline(parent, depth + 1)]


def test_diamond(imported: Import) -> None:
    labels, foundation = imported("labels", "labels"), imported("foundation", "foundation")
    e0s = make("e0s", "e0s", {"data": labels.id, "model": foundation.id})
    teacher = make("train", "teacher", {"e0s": e0s, "data": [labels.id], "model": foundation.id}, seed=3)
    student = make("distil", "student", {"teacher": teacher, "data": [labels.id, e0s]})
    make("distil", "unrelated", {"teacher": foundation.id})
    top = tree(student)
    assert outline(top) == [
        "None: distil",
        "  data: labels",
        "  data: e0s",
        "    data: labels again",
        "    model: foundation",
        "  teacher: train",
        "    data: labels again",
        "    e0s: e0s again",
        "    model: foundation again",
    ]
    train = top.parents[2].step
    assert train is not None
    assert (train.kind, train.parameters, train.seed) == ("train", {"name": "train"}, 3)
    assert train.finished_at is not None
    assert "python" in train.software
    assert top.parents[0].step is None
    graph = ancestors(student)
    assert set(graph.artifacts) == {labels.id, foundation.id, e0s, teacher, student}
    assert set(graph.made_by) == {e0s, teacher, student}
    edges = graph.used[graph.made_by[student]]
    assert [(edge.role, edge.position, edge.artifact_id) for edge in edges] == [
        ("data", 0, labels.id),
        ("data", 1, e0s),
        ("teacher", 0, teacher),
    ]


def test_imported_file_is_its_own_root(imported: Import) -> None:
    labels = imported("labels")
    assert tree(labels.id) == Node(artifact=labels, role=None, step=None, parents=[], repeated=False)


def test_step_that_changes_nothing_makes_no_cycle(imported: Import) -> None:
    labels = imported("labels")
    cleaned = make("clean", "merged", {"data": labels.id})
    assert make("filter", "merged", {"data": cleaned}) == cleaned
    assert make("filter", "labels", {"data": labels.id}) == labels.id
    assert outline(tree(cleaned)) == ["None: clean", "  data: labels"]


def test_long_campaign(imported: Import) -> None:
    last = imported("round 0").id
    for number in range(1, 13):
        last = make(f"round {number}", f"round {number}", {"before": last, "both": last})
    graph = ancestors(last)
    assert len(graph.artifacts) == 13
    assert len(outline(tree(last))) == 25  # and not 2**13


def test_unknown(url: str) -> None:
    with pytest.raises(UnknownArtifact, match="no artifact has the id"):
        tree("0" * 64)


def test_descendants_are_the_other_direction(imported: Import) -> None:
    labels, foundation = imported("labels", "labels"), imported("foundation", "foundation")
    e0s = make("e0s", "e0s", {"data": labels.id, "model": foundation.id})
    teacher = make("train", "teacher", {"e0s": e0s, "data": [labels.id], "model": foundation.id}, seed=3)
    student = make("distil", "student", {"teacher": teacher, "data": [labels.id, e0s]})
    unrelated = make("distil", "unrelated", {"teacher": foundation.id})
    everything = [labels.id, foundation.id, e0s, teacher, student, unrelated]
    for one in everything:
        assert set(descendants(one).artifacts) == {
            other for other in everything if one in ancestors(other).artifacts
        }
    graph = descendants(e0s)
    assert set(graph.made_by) == {teacher, student}
    assert set(graph.steps) == set(graph.made_by.values()) == set(graph.used)
    assert graph.steps[graph.made_by[teacher]].seed == 3
    assert [(edge.role, edge.artifact_id) for edge in graph.used[graph.made_by[student]]] == [
        ("data", e0s),
        ("teacher", teacher),
    ]  # the labels were not made from it


def test_nothing_is_made_from_the_last_one(imported: Import) -> None:
    last = make("train", "teacher", {"data": imported("labels").id})
    graph = descendants(last)
    assert list(graph.artifacts) == [last]
    assert (graph.steps, graph.made_by, graph.used) == ({}, {}, {})


def test_bytes_that_were_there_before_are_not_made_again(imported: Import) -> None:
    labels = imported("labels")
    cleaned = make("clean", "merged", {"data": labels.id})
    assert make("filter", "merged", {"data": cleaned}) == cleaned
    assert set(descendants(labels.id).artifacts) == {labels.id, cleaned}
    assert set(descendants(cleaned).artifacts) == {cleaned}


def test_descendants_of_something_unknown(url: str) -> None:
    with pytest.raises(UnknownArtifact, match="no artifact has the id"):
        descendants("0" * 64)
