"""A lineage in the languages of others: Mermaid, Graphviz, W3C PROV-JSON, RO-Crate.

Sources: W3C, *PROV-DM*, 2013; W3C member submission, *The PROV-JSON Serialization*, 2013; *RO-Crate Metadata
Specification 1.1*, 2020. Identifiers are content hashes: one thing has one name everywhere.
"""

import base64
import hashlib
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from db.artifacts import Artifact
from db.canonical import canonical
from db.licences import separate
from db.lineage import Lineage, Step
from db.retractions import Retraction

Tainted = Mapping[str, Retraction]
"""Artifact id to the retraction it is under (see ``retractions.all_tainted``)."""


def mermaid(lineage: Lineage, tainted: Tainted) -> str:
    """A Mermaid flowchart: boxes are artifacts, rounded boxes steps; what is ``tainted`` is red."""
    artifacts = {id_: f"a{number}" for number, id_ in enumerate(lineage.artifacts)}
    steps = {key: f"s{number}" for number, key in enumerate(lineage.steps)}

    def label(*lines: str) -> str:
        return '"' + "<br/>".join(_entities(line) for line in lines) + '"'

    text = ["flowchart TD"]
    text += [f"  {artifacts[id_]}[{label(*_lines(it))}]" for id_, it in lineage.artifacts.items()]
    text += [f"  {steps[key]}([{label(_label(step))}])" for key, step in lineage.steps.items()]
    text += [
        f"  {artifacts[edge.artifact_id]} -->|{label(edge.role)}| {steps[key]}"
        for key, edges in lineage.used.items()
        for edge in edges
    ]
    text += [f"  {steps[key]} --> {artifacts[id_]}" for id_, key in lineage.made_by.items()]
    if red := [artifacts[id_] for id_ in lineage.artifacts if id_ in tainted]:
        text += ["  classDef tainted stroke:#c00,color:#c00", f"  class {','.join(red)} tainted"]
    return "\n".join(text)


def dot(lineage: Lineage, tainted: Tainted) -> str:
    """A Graphviz digraph: boxes are artifacts, ellipses steps; what is ``tainted`` is red."""

    def quoted(*lines: str) -> str:
        escaped = [line.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ") for line in lines]
        return '"' + "\\n".join(escaped) + '"'

    text = ["digraph lineage {", "  node [shape=box];"]
    for id_, artifact in lineage.artifacts.items():
        red = ", color=red, fontcolor=red" if id_ in tainted else ""
        text.append(f"  {quoted(id_)} [label={quoted(*_lines(artifact))}{red}];")
    for key, step in lineage.steps.items():
        text.append(f"  {quoted('step ' + key)} [label={quoted(_label(step))}, shape=ellipse];")
    text += [
        f"  {quoted(edge.artifact_id)} -> {quoted('step ' + key)} [label={quoted(edge.role)}];"
        for key, edges in lineage.used.items()
        for edge in edges
    ]
    text += [f"  {quoted('step ' + key)} -> {quoted(id_)};" for id_, key in lineage.made_by.items()]
    return "\n".join([*text, "}"])


def prov(lineage: Lineage, tainted: Tainted) -> dict[str, Any]:
    """A PROV-JSON document: artifacts are entities, steps activities, people and software their agents.

    Metadata and parameters are attributes; nested ones have dots in their names, lists are JSON text.
    """
    entities = {
        f"artifact:{id_}": {
            "prov:label": artifact.name,
            "prov:type": artifact.kind,
            "temper:sha256": id_,
            "temper:size": artifact.size,
            **({"temper:tainted": tainted[id_].about(id_)} if id_ in tainted else {}),
            **_attributes("metadata:", artifact.metadata),
        }
        for id_, artifact in lineage.artifacts.items()
    }
    activities: dict[str, dict[str, Any]] = {}
    agents: dict[str, dict[str, Any]] = {}
    relations: dict[str, list[dict[str, str]]] = {}

    def relate(relation: str, **ends: str) -> None:
        relations.setdefault(relation, []).append({f"prov:{end}": name for end, name in ends.items()})

    def person(name: str) -> str:
        agents[f"agent:{_person(name)}"] = {"prov:type": _prov_type("Person"), "prov:label": name}
        return f"agent:{_person(name)}"

    for key, step in lineage.steps.items():
        activities[f"step:{key}"] = {
            "prov:label": _label(step),
            "prov:type": step.kind,
            "prov:startTime": step.started_at.isoformat(),
            **({"prov:endTime": step.finished_at.isoformat()} if step.finished_at else {}),
            "temper:version": step.version,
            **({"temper:seed": step.seed} if step.seed is not None else {}),
            **_attributes("parameter:", step.parameters),
        }
        agents[f"agent:{_program(step)}"] = {
            "prov:type": _prov_type("SoftwareAgent"),
            "prov:label": "Temper",
            **_attributes("software:", step.software),
        }
        relate("wasAssociatedWith", activity=f"step:{key}", agent=person(f"{step.user}@{step.host}"))
        relate("wasAssociatedWith", activity=f"step:{key}", agent=f"agent:{_program(step)}")
        for edge in lineage.used.get(key, []):
            relate("used", activity=f"step:{key}", entity=f"artifact:{edge.artifact_id}", role=edge.role)
    for id_, artifact in lineage.artifacts.items():
        made_by = lineage.made_by.get(id_)
        if made_by is None:
            relate("wasAttributedTo", entity=f"artifact:{id_}", agent=person(artifact.created_by))
            continue
        relate("wasGeneratedBy", entity=f"artifact:{id_}", activity=f"step:{made_by}")
        for source in _inputs(lineage, made_by):
            relate(
                "wasDerivedFrom",
                generatedEntity=f"artifact:{id_}",
                usedEntity=f"artifact:{source}",
                activity=f"step:{made_by}",
            )
    spaces = ("artifact", "step", "agent", "metadata", "parameter", "software")
    return {
        "prefix": {"temper": "urn:temper:", **{space: f"urn:temper:{space}:" for space in spaces}},
        "entity": entities,
        "activity": activities,
        "agent": agents,
        **{
            relation: {f"_:{relation}{number}": ends for number, ends in enumerate(rows)}
            for relation, rows in relations.items()
        },
    }


def ro_crate(lineage: Lineage, artifact_id: str, tainted: Tainted) -> dict[str, Any]:
    """What ``ro-crate-metadata.json`` says in an RO-Crate 1.1 about ``artifact_id`` and all behind it.

    Files are named by their sha256 (RFC 6920) and described, not contained. Each step is a CreateAction.
    """
    people: dict[str, dict[str, Any]] = {}
    licences: dict[str, dict[str, Any]] = {}
    programs: dict[str, dict[str, Any]] = {}

    def refer(
        known: dict[str, dict[str, Any]], id_: str, kind: str, name: str, **more: Any
    ) -> dict[str, str]:
        known[id_] = {"@id": id_, "@type": kind, "name": name, **more}
        return {"@id": id_}

    def person(name: str) -> dict[str, str]:
        return refer(people, f"#{_person(name)}", "Person", name)

    def file(artifact: Artifact) -> dict[str, Any]:
        said = artifact.metadata
        stated = [
            refer(licences, f"#licence-{quote(name, safe='')}", "CreativeWork", name)
            for name in separate(str(said.get("licence") or ""))
        ]
        return {
            "@id": _file(artifact.id),
            "@type": "File",
            "additionalType": artifact.kind,
            "name": artifact.name,
            "sha256": artifact.id,
            "contentSize": str(artifact.size),
            "dateCreated": artifact.created_at.isoformat(),
            "author": person(artifact.created_by),
            **({"license": stated} if stated else {}),
            **({"citation": str(said["citation"])} if said.get("citation") else {}),
            **({"description": canonical(said)} if said else {}),
            **(
                {"creativeWorkStatus": tainted[artifact.id].about(artifact.id)}
                if artifact.id in tainted
                else {}
            ),
        }

    def action(step: Step) -> dict[str, Any]:
        packages = [
            f"{name} {version}" for name, version in step.software.items() if isinstance(version, str)
        ]
        more = {
            "softwareRequirements": packages,
            "softwareVersion": step.software.get("temper-mlip", "unknown"),
        }
        return {
            "@id": f"#step-{step.key}",
            "@type": "CreateAction",
            "name": _label(step),
            "description": f"parameters: {canonical(step.parameters)}",
            "startTime": step.started_at.isoformat(),
            **({"endTime": step.finished_at.isoformat()} if step.finished_at else {}),
            "agent": person(f"{step.user}@{step.host}"),
            "instrument": refer(programs, f"#{_program(step)}", "SoftwareApplication", "Temper", **more),
            "object": [{"@id": _file(id_)} for id_ in _inputs(lineage, step.key)],
            "result": [{"@id": _file(id_)} for id_, key in lineage.made_by.items() if key == step.key],
        }

    files = [file(artifact) for artifact in lineage.artifacts.values()]
    actions = [action(step) for step in lineage.steps.values()]
    top = lineage.artifacts[artifact_id]
    root = {
        "@id": "./",
        "@type": "Dataset",
        "name": f"{top.kind} {top.name}",
        "description": f"What {top.kind} {top.name} was made from, and how; described, not contained.",
        "datePublished": top.created_at.isoformat(),
        "author": [{"@id": id_} for id_ in people],
        "license": [{"@id": id_} for id_ in licences] or "unknown",
        "mainEntity": {"@id": _file(artifact_id)},
        "hasPart": [{"@id": entity["@id"]} for entity in files],
        "mentions": [{"@id": entity["@id"]} for entity in actions],
    }
    descriptor = {
        "@id": "ro-crate-metadata.json",
        "@type": "CreativeWork",
        "conformsTo": {"@id": "https://w3id.org/ro/crate/1.1"},
        "about": {"@id": "./"},
    }
    contextual = [*people.values(), *licences.values(), *programs.values()]
    return {
        "@context": ["https://w3id.org/ro/crate/1.1/context", {"sha256": "https://schema.org/sha256"}],
        "@graph": [descriptor, root, *files, *actions, *contextual],
    }


def _lines(artifact: Artifact) -> tuple[str, str, str]:
    return artifact.kind, artifact.name, artifact.id[:12]


def _label(step: Step) -> str:
    return f"{step.kind} v{step.version}" + ("" if step.seed is None else f", seed {step.seed}")


def _inputs(lineage: Lineage, key: str) -> list[str]:
    """What a step read, each once."""
    return list(dict.fromkeys(edge.artifact_id for edge in lineage.used.get(key, [])))


def _person(name: str) -> str:
    return f"person-{quote(name, safe='@')}"


def _program(step: Step) -> str:
    """One name for one set of versions."""
    return f"software-{hashlib.sha256(canonical(step.software).encode()).hexdigest()[:16]}"


def _file(artifact_id: str) -> str:
    digest = base64.urlsafe_b64encode(bytes.fromhex(artifact_id)).decode().rstrip("=")
    return f"ni:///sha-256;{digest}"


def _prov_type(name: str) -> dict[str, str]:
    return {"$": f"prov:{name}", "type": "prov:QUALIFIED_NAME"}


def _attributes(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON as the flat attributes that PROV-JSON has."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        attribute = prefix + quote(name, safe="")
        match value:
            case None:
                continue
            case Mapping():
                flat |= _attributes(f"{attribute}.", value)
            case str() | int() | float():
                flat[attribute] = value
            case _:
                flat[attribute] = canonical(value)
    return flat


def _entities(text: str) -> str:
    """Text in a Mermaid label: what has a meaning there becomes a character code."""
    return re.sub(r"[^\w .,:=+/@()-]", lambda found: f"#{ord(found[0])};", text)
