"""Campaign files: read, and every input examined before anything runs."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from ase import Atoms
from ase.data import chemical_symbols
from pydantic import ValidationError

from models import foundation
from models.campaign import Campaign, FoundationChoice
from models.campaign_names import SHIPPED, CampaignError, existing, find
from models.datasets import (
    DataError,
    check_elements,
    fingerprint,
    isolated_atoms,
    read_labels,
    read_structures,
    settled,
    split,
)
from models.e0s import given_energies
from models.heads import check_donors
from models.permissions import Permissions
from models.potentials import header
from models.pseudolabels import has_labels
from models.rounds import Starts
from models.strategies import TARGET_HEAD
from models.sweeps import Sweep

LARGEST = 256 * 1024
"""Bytes of a campaign file: many times what the longest sensible one has."""
MOST = 100_000
"""Values in a campaign file: so many are no mistake, and yet no burden."""
OURS = Permissions()
"""Of whoever calls from Python: their own paths, and no programs."""


def load_campaign(
    name: str,
    *,
    labels: str | None = None,
    level_of_theory: str | None = None,
    foundation: str | None = None,
    seed: int | None = None,
    fields: Mapping[str, Any] | None = None,
    permissions: Permissions = OURS,
) -> Campaign:
    """A campaign by name or path with a few values replaced, every input of it examined.

    `fields` maps dotted names, such as "split.by", to values that replace the file's. `permissions` say what
    it may read and start.

    Other labels lose what the file says of its own: licence, citation, calculator, and which of two
    stands. `seed` replaces the seeds of the split, the replay set, the student, the simulation, the rounds
    and every training. Raises CampaignError, NotPermitted, DataError or FoundationError with one clear
    message.
    """
    if (labels is None) != (level_of_theory is None):
        raise CampaignError(
            "give labels and level_of_theory together: labels of an unknown level mean nothing"
        )
    given = {
        "labels.path": labels,
        "labels.level_of_theory": level_of_theory,
        "foundation.name": foundation,
        **dict.fromkeys(("split.seed", "replay.seed", "student.seed", "simulation.seed"), seed),
    }
    overrides = {key: value for key, value in given.items() if value is not None}
    if labels is not None:
        overrides |= {"labels.licence": "unknown", "labels.citation": ""}
        overrides |= {"labels.calculator": None, "labels.repeated": None}
    campaign = load(find(name), overrides | dict(fields or {}), permissions)
    if seed is not None:
        campaign = campaign.model_copy(
            update={
                "candidates": tuple(c.seeded(seed) for c in campaign.candidates),
                "sweep": campaign.sweep and campaign.sweep.seeded(seed),
                "checks": tuple(c.seeded(seed) for c in campaign.checks),
                "student": campaign.student.model_copy(
                    update={"optimisation": campaign.student.optimisation.model_copy(update={"seed": seed})}
                ),
                "rounds": campaign.rounds and campaign.rounds.model_copy(update={"seed": seed}),
            }
        )
    if campaign.rounds is not None:
        permissions.check_programs(campaign.rounds.calculator)
    examine(campaign)
    return campaign


def examine(campaign: Campaign) -> None:
    """Read every input of a campaign and raise on the first that cannot be used, before anything runs.

    Inputs that this process has examined, and that look as they did then, are not read again.
    """
    files = [Path(campaign.foundation.name), *_files(campaign.model_dump())]
    looks = (campaign.model_dump_json(), *map(_look, files))
    if looks not in _examined:
        _examine(campaign)
        _examined.add(looks)


_examined: set[tuple[Any, ...]] = set()


def _files(value: Any) -> Iterator[Path]:
    """The paths in what a campaign says."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _files(item)
    elif isinstance(value, Path):
        yield value


def _look(file: Path) -> tuple[int, ...]:
    """What changes when somebody writes to a file; nothing where there is none."""
    with suppress(OSError):
        status = file.stat()
        return status.st_ino, status.st_size, status.st_mtime_ns
    return ()


def _examine(campaign: Campaign) -> None:
    structures, tested = {}, set[str]()
    for head in (TARGET_HEAD, *campaign.further):
        labels, policy = campaign.level(head)
        labelled = read_labels(labels.path, labels.names, labels.units)
        isolated, frames = isolated_atoms(settled(labelled, str(labels.path), labels.repeated))
        parts = split(frames, campaign.split, str(labels.path)).indices
        if head == TARGET_HEAD:
            tested = {fingerprint(frames[i]) for i in parts["test"]}
        elif told := [i for p in ("train", "valid") for i in parts[p] if fingerprint(frames[i]) in tested]:
            raise CampaignError(
                f"{labels.path}, frame {told[0]} ({frames[told[0]].get_chemical_formula()}): {head} would "
                f"train on a structure that {campaign.labels.path} is tested on; give a trajectory the same "
                f"{campaign.split.by!r} in both, so that both are split alike, or leave it out of one"
            )
        if policy.policy in ("isolated_atoms", "explicit"):
            given_energies(policy, isolated, sorted({int(z) for frame in frames for z in frame.numbers}))
        structures[labels.path] = [*frames, *isolated]
    for section in (*campaign.comparable.values(), campaign.replay, *_starts(campaign)):
        if section.path is not None:
            structures[section.path] = read_structures(section.path)
    if campaign.rounds is not None:
        for path in (campaign.labels.path, *(starts.path for starts in _starts(campaign))):
            try:
                campaign.rounds.calculator.check(isolated_atoms(structures[path])[1])
            except DataError as error:
                raise DataError(f"{path}, {error}") from None
    described = foundation.describe(campaign.foundation.name)
    if described is not None:
        _check_elements(structures, described, campaign.foundation.name, campaign.foundation.adopt)
    if asking := [c.name for c in campaign.strategies if "original_train" in c.replay_parts.values()]:
        _examine_replay_labels(campaign, asking[0])


def _starts(campaign: Campaign) -> list[Starts]:
    """Where active rounds start from beside the labels."""
    return [campaign.rounds.starts] if campaign.rounds and campaign.rounds.starts else []


def sweep_of(campaign: Campaign, name: str) -> Sweep:
    """The sweep of a campaign; raises CampaignError where it has none."""
    if campaign.sweep is None:
        raise CampaignError(f"{name}: sweep: is missing; list strategies and settings to try")
    return campaign.sweep


def check_known(campaign: Campaign, checkpoint: Path, name: str) -> None:
    """Raise DataError where a model lacks an element of the labels, or of what the checks compare with."""
    labels = campaign.labels
    structures = {labels.path: read_labels(labels.path, labels.names, labels.units)}
    structures |= {s.path: read_structures(s.path) for s in campaign.comparable.values()}
    _check_elements(structures, header(checkpoint), name)


def _check_elements(
    structures: Mapping[Path, Sequence[Atoms]],
    described: Mapping[str, Any],
    model: str,
    adopted: Mapping[str, str] | None = None,
) -> None:
    known = [chemical_symbols[z] for z in described["architecture"]["atomic_numbers"]]
    try:
        check_donors(adopted or {}, known)
    except ValueError as error:
        raise CampaignError(f"foundation.adopt: {error}") from None
    known += adopted or {}
    for path, items in structures.items():
        check_elements(items, known, str(path), model)


def _examine_replay_labels(campaign: Campaign, candidate: str) -> None:
    """Raise CampaignError unless the replay structures have labels at the foundation's own level.

    DataError: two of them are the same structure with different labels.
    """
    replay, advice = campaign.replay, "or use pseudolabelled_replay"
    frames = read_structures(replay.file)
    for index, frame in enumerate(frames):
        if not has_labels(frame):
            raise CampaignError(
                f"{replay.file}, frame {index} ({frame.get_chemical_formula()}): no REF_energy and "
                f"REF_forces, on which {candidate} trains; label it at the foundation's level, {advice}"
            )
    if replay.labels_level is None:
        raise CampaignError(
            f"replay.level_of_theory: is missing; {candidate} trains on the structures' own labels: "
            f"say of what level they are, {advice}"
        )
    known = _foundation_levels(campaign.foundation)
    if known and replay.labels_level not in known:
        raise CampaignError(
            f"replay.level_of_theory: the labels are {replay.labels_level}, the foundation "
            f"{campaign.foundation.name} is {' or '.join(known)}, and {candidate} would mix them in one "
            f"head; give replay structures labelled at the foundation's level, {advice}"
        )
    settled(frames, str(replay.file), None)


def _foundation_levels(choice: FoundationChoice) -> list[str]:
    """The levels of theory that the chosen foundation may be of, as far as they are known without it."""
    described = foundation.describe(choice.name)
    if described is not None:
        levels = described["level_of_theory"]
        return [levels[choice.head]] if choice.head in levels else sorted(set(levels.values()))
    published = foundation.PUBLISHED.get(choice.name)
    return [published.level_of_theory] if published and choice.head is None else []


def load(path: Path, overrides: Mapping[str, Any] | None = None, permissions: Permissions = OURS) -> Campaign:
    """Read and validate a campaign file.

    `overrides` maps dotted fields ("labels.path") to values that replace the file's. Paths are
    relative to the file (overriding ones to the working directory) and come back absolute. Raises
    CampaignError with one line per mistake, and NotPermitted where a path leaves the folder of the file.
    """
    overrides, folder = overrides or {}, path.parent.resolve()
    if not permissions.from_person and path.resolve().parent != SHIPPED.resolve():
        permissions.check_file(path, "campaign")
    content = _content(path)
    for place, section, key in _paths(content):
        if place != "foundation.name" or (folder / section[key]).is_file():
            section[key] = str(folder / section[key])
            permissions.check_file(Path(section[key]), f"{path}: {place}", folder=folder)
    for dotted, value in overrides.items():
        *names, last = dotted.split(".")
        target = content
        for name in names:
            target = target.setdefault(name, {})
            if not isinstance(target, dict):
                raise CampaignError(f"{path}: {name}: is a mapping of fields, not {target!r}")
        target[last] = value
    for place, section, key in _paths(content):
        if any(place == dotted or place.startswith(f"{dotted}.") for dotted in overrides):
            if place != "foundation.name":
                section[key] = str(Path(section[key]).absolute())
            permissions.check_given(section[key], place)
    try:
        return Campaign.model_validate(content)
    except ValidationError as error:
        raise CampaignError("\n".join(_readable(path, mistake) for mistake in error.errors())) from error


def _content(path: Path) -> dict[str, Any]:
    """The sections of a campaign file; raises CampaignError."""
    if (size := existing(path).stat().st_size) > LARGEST:
        raise CampaignError(
            f"{path}: {size} bytes; a campaign file has at most {LARGEST}, and structures have their own"
        )
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, yaml.SafeLoader)
        if node is not None and _expanded(node, {}) > MOST:
            raise CampaignError(f"{path}: its aliases (*name) stand for too much; write out what you mean")
        content = yaml.safe_load(text)
    except RecursionError:
        raise CampaignError(f"{path}: not a campaign: it is nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: no UTF-8, or no such date or number
        raise CampaignError(f"{path}: not valid YAML ({error})") from error
    if not isinstance(content, dict):
        raise CampaignError(f"{path}: a campaign is a mapping of sections, not {type(content).__name__}")
    return content


def _expanded(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node stands for with aliases written out; more than MOST where it holds itself."""
    if id(node) not in known:
        known[id(node)] = MOST + 1
        parts = node.value if isinstance(node, yaml.CollectionNode) else ()
        inside = [n for part in parts for n in (part if isinstance(part, tuple) else (part,))]
        known[id(node)] = 1 + sum(_expanded(n, known) for n in inside)
    return known[id(node)]


def _paths(content: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Where a campaign names files: the dotted field, its section, and its key in there."""
    groups = {key: content.get(key) for key in ("further", "evidence", "rounds")}
    sections = {**content}
    for key, group in groups.items():
        if isinstance(group, dict):
            sections |= {f"{key}.{name}": section for name, section in group.items()}
    for place, section in sections.items():
        key = "name" if place == "foundation" else "path"
        if isinstance(section, dict) and isinstance(section.get(key), str):
            yield f"{place}.{key}", section, key


def _readable(path: Path, mistake: Any) -> str:
    place = ".".join(str(part) for part in mistake["loc"]) or "campaign"
    if mistake["type"] == "extra_forbidden":
        return f"{path}: {place}: unknown key; check its spelling and its section"
    if mistake["type"] == "missing":
        return f"{path}: {place}: is missing; add it"
    message = mistake["msg"].removeprefix("Value error, ")
    given = "" if isinstance(mistake["input"], dict) else f" (given: {mistake['input']!r})"
    return f"{path}: {place}: {message}{given}"
