"""The order of a specialist: labels, E0s, candidates, and the best of them."""

from collections.abc import Mapping
from dataclasses import dataclass

from flows.acceptance import Ground, accept, chosen, examine, measured_on
from flows.runners import result
from flows.trainings import Training, train
from models.campaign import Campaign
from models.strategies import TARGET_HEAD, AnyStrategy
from models.validation.gate import Other
from tasks.children import interruptible
from tasks.datasets import ingest_labels, pseudolabel_replay, record_evidence
from tasks.foundation import resolve_foundation
from tasks.promotion import admit
from tasks.structures import record_labels, record_replay
from tasks.training import refit_e0s
from tasks.validation import rank


@dataclass(frozen=True, kw_only=True)
class Given:
    """Ids of what every specialist of a campaign starts from.

    Attributes:
        data: by part, the target's labels.
        further: the same by further head.
        e0s: by head, those of its level of theory.
    """

    foundation: str
    data: Mapping[str, str]
    e0s: Mapping[str, str]
    replay: Mapping[str, str]
    further: Mapping[str, Mapping[str, str]]
    evidence: Mapping[str, str]

    @property
    def files(self) -> dict[str, str]:
        """What a checkpoint is measured on, by role; the same throughout a campaign."""
        return measured_on(self.data, self.replay, self.evidence)

    @property
    def specialist_files(self) -> dict[str, str]:
        """The same for a specialist, with what it was fine-tuned from."""
        return {**self.files, "foundation": self.foundation}


@dataclass(frozen=True, kw_only=True)
class Specialist:
    """Ids of the candidates that were trained on the same labels, and the best of them.

    Attributes:
        data: by part, the target's labels.
        lessons: what each candidate was given, but for replay.
        candidates: by name, checkpoint and history.
        found: by name, the findings of the foundation and of all candidates that are compared.
        winner: the name of the candidate with the lowest validation error.
    """

    data: Mapping[str, str]
    e0s: str
    lessons: Mapping[str, str]
    candidates: Mapping[str, Mapping[str, str]]
    found: Mapping[str, Mapping[str, str]]
    winner: str

    @property
    def checkpoint(self) -> str:
        """The best candidate's."""
        return self.candidates[self.winner]["checkpoint"]


def gather(plan: Campaign) -> Given:
    """Put all inputs of a campaign on record; raises where nothing that is made of them could be promoted."""
    start = resolve_foundation(plan.foundation)
    with interruptible(errors=True):  # nobody wants replay labels for labels that cannot be used
        replay = pseudolabel_replay.submit(plan.replay, start)
        data = ingest_labels(plan)
        further = {head: ingest_labels(plan, head) for head in plan.further}
        evidence = record_evidence(plan)
        heads = {TARGET_HEAD: data, **further}
        record_labels(plan, heads)
        replay_on_record = record_replay.submit(replay, start, heads)  # type: ignore[call-overload]  # Prefect waits
        admit(plan, [start, *_all_ids(evidence, *heads.values())])
        e0s = {head: refit_e0s(plan, start, labels, head) for head, labels in heads.items()}
        admit(plan, _all_ids(result(replay)))
        result(replay_on_record)
    return Given(
        foundation=start, data=data, replay=result(replay), further=further, e0s=e0s, evidence=evidence
    )


def specialise(plan: Campaign, given: Given, data: Mapping[str, str], start: str | None = None) -> Specialist:
    """Fine-tune all candidates on `data`, from the foundation or from the checkpoint `start`."""
    lessons = taught(plan, given, data, start)
    e0s = lessons["e0s"]
    wanted = [Training(candidate, lessons | replayed(candidate, given)) for candidate in plan.candidates]
    trained = zip(plan.candidates, train(plan, wanted), strict=True)
    candidates = {candidate.name: made for candidate, made in trained}
    with interruptible():
        compared = chosen(plan, ("accuracy", "retention"))
        checkpoint, files = foundation_ground(given, e0s)
        examined = {"foundation": examine("foundation", plan.simulation, compared, checkpoint, files)}
        for name, made in candidates.items():
            examined[name] = examine(name, plan.simulation, compared, made["checkpoint"], given.files)
        found = {name: examination.findings() for name, examination in examined.items()}
    return Specialist(
        data={**given.data, **data},
        e0s=e0s,
        lessons=lessons,
        candidates=candidates,
        found=found,
        winner=rank({name: made["history"] for name, made in candidates.items()}),
    )


def taught(plan: Campaign, given: Given, data: Mapping[str, str], start: str | None = None) -> dict[str, str]:
    """What every candidate is given, by role; see `tasks.training.fine_tune`."""
    first = start is None and data == given.data
    e0s = given.e0s[TARGET_HEAD] if first else refit_e0s(plan, start or given.foundation, data)
    lessons = {"foundation": start or given.foundation, "e0s": e0s}
    lessons |= {part: data[part] for part in ("train", "valid")}
    for head, other in given.further.items():
        lessons |= {f"{head}.{role}": other[role] for role in ("train", "valid")}
        lessons[f"{head}.e0s"] = given.e0s[head]
    return lessons


def assess(plan: Campaign, given: Given, specialist: Specialist) -> str:
    """The id of a specialist's acceptance."""
    checkpoint = specialist.checkpoint
    files = given.specialist_files
    with interruptible():
        examination = examine("champion", plan.simulation, plan.checks, checkpoint, files)
        grounds: dict[Other, Ground] = {"foundation": foundation_ground(given, specialist.e0s)}
        return result(accept(plan, "champion", checkpoint, files, examination, grounds))


def foundation_ground(given: Given, e0s: str) -> Ground:
    """The foundation, and the files that it is measured on: at the E0s of the labels' level."""
    return given.foundation, {**given.files, "e0s": e0s}


def replayed(candidate: AnyStrategy, given: Given) -> dict[str, str]:
    """What a candidate is given of the replay set, by role."""
    return {role: given.replay[part] for role, part in candidate.replay_parts.items()}


def _all_ids(*parts: Mapping[str, str]) -> list[str]:
    return [id_ for part in parts for id_ in part.values()]
