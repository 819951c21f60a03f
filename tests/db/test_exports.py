import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from db.agent import who
from db.artifacts import Artifact
from db.exports import dot, mermaid, prov, ro_crate
from db.lineage import Lineage, ancestors
from db.retractions import all_tainted, retract

Import = Callable[..., Artifact]
Make = Callable[..., str]

# All that means something in one of the languages.
NASTY = 'labels "Å" [of] <salt>; {a} | b & c #4 `end` \\N'


@pytest.fixture
def ids(imported: Import, made: Make) -> dict[str, str]:
    """A student of a teacher, both made from labels with a difficult name, and a foundation."""
    labels = imported("labels", NASTY, licence="CC-BY-4.0; MIT", citation="Doe, 2020").id
    foundation = imported("foundation", "foundation", licence="MIT").id
    teacher = made("teacher", {"data": labels, "model [1]": foundation}, licence="CC-BY-4.0; MIT")
    student = made("student", {"data": [labels, labels], "teacher": teacher})
    return {"labels": labels, "foundation": foundation, "teacher": teacher, "student": student}


@pytest.fixture
def lineage(ids: dict[str, str]) -> Lineage:
    """All behind the student: 4 artifacts, 2 steps that used 5 and made 2."""
    return ancestors(ids["student"])


LABEL = r'"([^"]*)"'


def test_mermaid_has_every_node_and_edge_and_nothing_in_a_label_is_read_as_code(lineage: Lineage) -> None:
    first, *lines = mermaid(lineage, {}).splitlines()
    assert first == "flowchart TD"
    found: dict[str, list[re.Match[str]]] = {"artifact": [], "step": [], "used": [], "made": []}
    for line in lines:
        for what, pattern in {
            "artifact": rf"  (a\d)\[{LABEL}\]",
            "step": rf"  (s\d)\(\[{LABEL}\]\)",
            "used": rf"  (a\d) -->\|{LABEL}\| (s\d)",
            "made": r"  (s\d) --> (a\d)",
        }.items():
            if match := re.fullmatch(pattern, line):
                found[what].append(match)
    assert {what: len(matches) for what, matches in found.items()} == {
        "artifact": 4,
        "step": 2,
        "used": 5,
        "made": 2,
    }
    assert sum(map(len, found.values())) == len(lines)
    shown = {}
    for node in found["artifact"] + found["step"]:
        assert not re.search(r"[\[\]{}|`;<>&\\]", re.sub(r"#\d+;|<br/>", "", node[2]))
        text = re.sub(r"#(\d+);", lambda code: chr(int(code[1])), node[2])
        shown[node[1]] = text.split("<br/>")
    labels = next(name for name, lines in shown.items() if lines[0] == "dataset" and lines[1] == NASTY)
    student = next(name for name, lines in shown.items() if lines[1:2] == ["student"])
    step = next(name for name, lines in shown.items() if lines == ["make student v1, seed 7"])
    assert [(edge[1], edge[3]) for edge in found["used"]].count((labels, step)) == 2
    assert (step, student) in [(edge[1], edge[2]) for edge in found["made"]]


def test_dot_has_every_node_and_edge_and_escapes_labels(lineage: Lineage, ids: dict[str, str]) -> None:
    text = dot(lineage, {})
    quoted = r'"((?:[^"\\]|\\.)*)"'
    first, second, *lines, last = text.splitlines()
    assert (first, second, last) == ("digraph lineage {", "  node [shape=box];", "}")
    nodes, edges = {}, []
    for line in lines:
        if match := re.fullmatch(rf"  {quoted} \[label={quoted}(?:, shape=ellipse)?\];", line):
            nodes[match[1]] = match[2]
        else:
            match = re.fullmatch(rf"  {quoted} -> {quoted}(?: \[label={quoted}\])?;", line)
            assert match, line
            edges.append((match[1], match[2], match[3]))
    assert set(ids.values()) <= set(nodes)
    assert len(nodes) == 6
    shown = [line.replace('\\"', '"').replace("\\\\", "\\") for line in nodes[ids["labels"]].split("\\n")]
    assert shown == ["dataset", NASTY, ids["labels"][:12]]
    made = lineage.made_by[ids["student"]]
    assert edges.count((ids["labels"], f"step {made}", "data")) == 2
    assert (f"step {made}", ids["student"], None) in edges
    assert len(edges) == 7


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
def test_graphviz_takes_it(lineage: Lineage) -> None:
    drawn = subprocess.run(
        ["dot", "-Tplain"], input=dot(lineage, {}), capture_output=True, text=True, check=True
    )
    assert drawn.stderr == ""
    assert len(re.findall("^node ", drawn.stdout, re.MULTILINE)) == 6


RELATIONS = ["used", "wasGeneratedBy", "wasAssociatedWith", "wasAttributedTo", "wasDerivedFrom"]


def test_prov_says_who_made_what_from_what(lineage: Lineage, ids: dict[str, str]) -> None:
    document = json.loads(json.dumps(prov(lineage, {})))
    assert {name: len(document[name]) for name in ("entity", "activity", "agent")} == {
        "entity": 4,
        "activity": 2,
        "agent": 2,  # one person, one set of software
    }
    assert [len(document[relation]) for relation in RELATIONS] == [5, 2, 4, 2, 4]
    student = document["entity"][f"artifact:{ids['student']}"]
    assert (student["prov:type"], student["prov:label"]) == ("checkpoint", "student")
    assert document["entity"][f"artifact:{ids['labels']}"]["metadata:citation"] == "Doe, 2020"
    activity = document["activity"][f"step:{lineage.made_by[ids['student']]}"]
    assert activity["parameter:optimisation.epochs"] == 20
    assert activity["parameter:optimisation.rates"] == "[0.1,0.01]"
    assert activity["temper:seed"] == 7
    assert activity["prov:startTime"] <= activity["prov:endTime"]
    assert document["agent"][f"agent:person-{who()}"]["prov:type"]["$"] == "prov:Person"
    (software,) = (
        agent for agent in document["agent"].values() if agent["prov:type"]["$"] == "prov:SoftwareAgent"
    )
    assert software["software:sqlalchemy"]
    known = {*document["entity"], *document["activity"], *document["agent"]}
    for relation in RELATIONS:
        for row in document[relation].values():
            assert {name for end, name in row.items() if end != "prov:role"} <= known


def test_prov_is_read_by_its_reference_implementation(lineage: Lineage) -> None:
    model = pytest.importorskip("prov.model", reason="the package prov is not installed")
    text = json.dumps(prov(lineage, {}))
    document = model.ProvDocument.deserialize(content=text, format="json")
    kinds = [record.get_type().localpart for record in document.get_records()]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "Entity": 4,
        "Activity": 2,
        "Agent": 2,
        "Usage": 5,
        "Generation": 2,
        "Association": 4,
        "Attribution": 2,
        "Derivation": 4,
    }
    assert model.ProvDocument.deserialize(content=document.serialize(), format="json") == document


def references(value: Any) -> Iterator[str]:
    """Every ``{"@id": …}`` in a value."""
    if isinstance(value, dict):
        if set(value) == {"@id"}:
            yield value["@id"]
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def test_ro_crate_describes_files_actions_people_and_licences(lineage: Lineage, ids: dict[str, str]) -> None:
    crate = json.loads(json.dumps(ro_crate(lineage, ids["student"], {})))
    assert crate["@context"][0] == "https://w3id.org/ro/crate/1.1/context"
    graph = {entity["@id"]: entity for entity in crate["@graph"]}
    assert len(graph) == len(crate["@graph"])
    assert set(references(crate["@graph"])) - set(graph) == {"https://w3id.org/ro/crate/1.1"}
    assert graph["ro-crate-metadata.json"]["about"] == {"@id": "./"}
    root = graph["./"]
    assert (root["@type"], root["name"]) == ("Dataset", "checkpoint student")
    assert {"description", "datePublished"} <= set(root)
    assert graph[root["mainEntity"]["@id"]]["sha256"] == ids["student"]
    files = {graph[part["@id"]]["sha256"]: graph[part["@id"]] for part in root["hasPart"]}
    assert set(files) == set(ids.values())
    assert {file["@type"] for file in files.values()} == {"File"}
    labels = files[ids["labels"]]
    assert (labels["name"], labels["contentSize"], labels["citation"]) == (NASTY, "6", "Doe, 2020")
    assert [graph[licence["@id"]]["name"] for licence in labels["license"]] == ["CC-BY-4.0", "MIT"]
    assert graph[labels["author"]["@id"]] == {
        "@id": f"#person-{who()}",
        "@type": "Person",
        "name": who(),
    }
    assert sorted(graph[licence["@id"]]["name"] for licence in root["license"]) == ["CC-BY-4.0", "MIT"]
    (action,) = (
        entity for entity in graph.values() if entity["@id"].endswith(lineage.made_by[ids["student"]])
    )
    assert action["@type"] == "CreateAction"
    assert [graph[thing["@id"]]["sha256"] for thing in action["object"]] == [ids["labels"], ids["teacher"]]
    assert [graph[thing["@id"]]["sha256"] for thing in action["result"]] == [ids["student"]]
    assert graph[action["instrument"]["@id"]]["@type"] == "SoftwareApplication"
    assert any(
        package.startswith("sqlalchemy ")
        for package in graph[action["instrument"]["@id"]]["softwareRequirements"]
    )
    assert graph[action["agent"]["@id"]]["@type"] == "Person"


def test_what_is_retracted_is_marked_everywhere(lineage: Lineage, ids: dict[str, str]) -> None:
    retract(ids["foundation"], "not ours")
    tainted = all_tainted()
    assert len(re.findall("color=red, fontcolor=red", dot(lineage, tainted))) == 3
    (classed,) = re.findall(r"class (\S+) tainted", mermaid(lineage, tainted))
    assert len(classed.split(",")) == 3
    entities = prov(lineage, tainted)["entity"]
    assert "temper:tainted" not in entities[f"artifact:{ids['labels']}"]
    assert entities[f"artifact:{ids['foundation']}"]["temper:tainted"].startswith("retracted on ")
    marked = [e for e in ro_crate(lineage, ids["student"], tainted)["@graph"] if "creativeWorkStatus" in e]
    assert {entity["sha256"] for entity in marked} == {ids["foundation"], ids["teacher"], ids["student"]}
    assert all(entity["creativeWorkStatus"].endswith(": not ours") for entity in marked)


def test_an_imported_file_alone_is_a_lineage_too(imported: Import) -> None:
    id_ = imported("labels").id
    lineage = ancestors(id_)
    assert "-->" not in mermaid(lineage, {})
    assert "->" not in dot(lineage, {})
    assert prov(lineage, {})["activity"] == {}
    assert [entity["@type"] for entity in ro_crate(lineage, id_, {})["@graph"]] == [
        "CreativeWork",
        "Dataset",
        "File",
        "Person",
    ]
