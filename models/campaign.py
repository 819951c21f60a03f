"""A campaign: what a person asks for."""

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    field_validator,
    model_validator,
)

from models import foundation, losses
from models.datasets import (
    Keys,
    Repeated,
    Splitting,
    Units,
)
from models.distillation.objectives import AnyObjective, Curvature
from models.distillation.students import AnyStudent, SmallMace
from models.e0s import E0Policy
from models.potentials import header
from models.rounds import FIGURE, Rounds
from models.strategies import REPLAY_HEAD, TARGET_HEAD, AnyStrategy
from models.sweeps import Sweep
from models.training import Optimisation
from models.validation import CHECK, CHECKS, AnyCheck
from models.validation.acceptance import Simulation
from models.validation.gate import Threshold


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FoundationChoice(_Section):
    """The model to start from."""

    name: str = Field("temper-gfn1", description="a known name, or a path")
    head: str | None = Field(None, description="which head, where the foundation has several")
    adopt: dict[str, str] = Field(
        {}, description="elements that it does not know, each with the known one that it starts as a copy of"
    )


class Calculator(_Section):
    """What computed the labels."""

    name: str = Field(min_length=1, description="the program, as tblite")
    version: str = ""
    settings: dict[str, JsonValue] = Field({}, description="what else decides the result, as cutoffs")


class Labels(_Section):
    """The reference labels of the target system."""

    path: Path
    level_of_theory: str = Field(min_length=1)
    licence: str = Field(
        "unknown", description="terms of the labels; they travel with what is made from them"
    )
    citation: str = ""
    units: Units
    names: Keys = Keys()
    calculator: Calculator | None = None
    repeated: Repeated | None = Field(
        None, description="which label stands where a structure comes with several that differ"
    )


class FurtherLabels(Labels):
    """Labels of one more level of theory, learnt in a head of their own beside the target's."""

    e0s: E0Policy = E0Policy()


class ReferenceTrajectories(_Section):
    """Trajectories at the labels' level, for RDFs; frames named by the info key `trajectory`."""

    path: Path
    level_of_theory: str = Field(min_length=1)
    temperature: float = Field(gt=0, description="K")
    licence: str = "unknown"


class ReferenceStructures(_Section):
    """Structures at the labels' level that a check compares with: minima, reaction paths, crystals."""

    path: Path
    level_of_theory: str = Field(min_length=1)
    licence: str = "unknown"


class Replay(_Section):
    """Structures of the foundation's own ground, to be kept in sight."""

    path: Path | None = Field(
        None, description="structures of any kind; default: the set shipped with Temper"
    )
    level_of_theory: str | None = Field(
        None, description="of the structures' own labels, which only multihead_replay trains on"
    )
    licence: str = Field("", description="terms of the structures; the shipped ones come under MIT")
    n_structures: int = Field(400, ge=10)
    seed: int = 0

    @property
    def terms(self) -> dict[str, str]:
        """What is known of the terms of the structures."""
        licence = "MIT" if self.path is None else self.licence
        return {"licence": licence} if licence else {}

    @property
    def file(self) -> Path:
        """The structures."""
        return self.path or foundation.shipped_replay()

    @property
    def labels_level(self) -> str | None:
        """The level of theory of the structures' own labels, where it is known."""
        if self.path is None:
            return header(foundation.shipped()["temper-gfn1"])["level_of_theory"]["Default"]
        return self.level_of_theory


class StudentPlan(_Section):
    """The fast engine, and what it learns from."""

    architecture: AnyStudent = SmallMace()
    optimisation: Optimisation = Optimisation(
        learning_rate=0.01, decay="cosine", ema_decay=0.995, clip_gradient=10.0, epochs=20
    )
    weights: losses.Weights = Field(
        losses.Weights(energy=1.0), description="of labels and the teacher's labels in the loss"
    )
    objectives: tuple[AnyObjective, ...] = Field((), description="what else it learns of its teacher")
    n_structures: int = Field(
        900, ge=0, description="structures that the teacher labels; 0: it learns from reference labels alone"
    )
    rattle: float = Field(0.1, gt=0, description="largest, Å")
    relax_steps: int = Field(
        0, ge=0, description="steps downhill after each rattling, before the next; 0: single rattlings"
    )
    rounds: int = Field(
        0, ge=0, description="how often a shortly taught student explores and its dynamics is labelled"
    )
    seed: int = 0

    @model_validator(mode="after")
    def _learnable(self) -> "StudentPlan":
        kinds = [objective.kind for objective in self.objectives]
        if twice := sorted({kind for kind in kinds if kinds.count(kind) > 1}):
            raise ValueError(f"objectives: there are two of {', '.join(twice)}; remove one")
        for objective in self.objectives:
            objective.check(self.architecture)
        return self

    @property
    def curvatures(self) -> list[Curvature]:
        """The objectives for which the teacher has to label its Hessian."""
        return [objective for objective in self.objectives if isinstance(objective, Curvature)]

    def exploring(self) -> "StudentPlan":
        """The plan of a student that is taught again, with half the epochs."""
        shorter = {"epochs": (self.optimisation.epochs + 1) // 2}
        return self.model_copy(update={"optimisation": self.optimisation.model_copy(update=shorter)})


class Night(_Section):
    """What the night may do about what is promoted."""

    move_back: bool = Field(
        False,
        description="where it is damaged, retracted or worse than it was accepted, its name stands again for "
        "the last one that is still as it was accepted",
    )


DEFAULT_GATE = (
    Threshold(figure="accuracy.forces", relative_to="foundation", at_most=0.7, of="champion"),
    Threshold(figure="accuracy.forces", relative_to="foundation", at_most=1.0, of="engine"),
    Threshold(figure="dynamics.finished", at_least=100.0),
    Threshold(figure="stability.finished", at_least=100.0),
    Threshold(figure="conservation.drift", at_most=5.0),
    Threshold(figure="conservation.order", at_least=1.5),
    Threshold(figure="consistency.symmetry", at_most=1.0),
    Threshold(figure="consistency.invariance", at_most=0.1),
    Threshold(figure="consistency.size", at_most=0.1),
    Threshold(figure="consistency.forces", at_most=1.0),
    Threshold(figure="consistency.stress", at_most=1.0),
    Threshold(figure="repulsion.compression", at_most=10.0),
    Threshold(figure="relaxation.failures", at_most=10.0),
    Threshold(figure="speed.ratio", at_least=1.5, of="engine"),
)

_TAKEN = {"foundation", "champion", "student", "engine"}  # what reports call other models


class Campaign(_Section):
    """One fine-tuning campaign: from a foundation and labels to a promoted specialist and engine."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    description: str = ""
    foundation: FoundationChoice = FoundationChoice()
    labels: Labels
    further: dict[str, FurtherLabels] = Field(
        {}, description="by head: labels of other levels of theory, which share what the candidates learn"
    )
    split: Splitting = Splitting()
    reference: ReferenceTrajectories | None = None
    replay: Replay = Replay()
    e0s: E0Policy = E0Policy()
    candidates: tuple[AnyStrategy, ...] = Field(
        (), description="ways to fine-tune, which compete; none: the one that the sweep recommends"
    )
    sweep: Sweep | None = Field(None, description="strategies and settings to try on the validation data")
    evidence: dict[Literal["minima", "paths", "crystals"], ReferenceStructures] = Field(
        {}, description="what some of the checks compare with"
    )
    simulation: Simulation = Simulation()
    checks: tuple[AnyCheck, ...] = Field(
        tuple(CHECK.validate_python({"kind": kind}) for kind in CHECKS),
        description="what is measured of a model",
    )
    gate: tuple[Threshold, ...] = Field(DEFAULT_GATE, description="what it must reach to be promoted")
    approval: Literal["gate", "person"] = Field(
        "gate", description="who promotes what passes the gate: the gate itself, or a person who is asked"
    )
    student: StudentPlan = StudentPlan()
    rounds: Rounds | None = Field(
        None, description="how labels are acquired as long as the gate does not hold; none: it asks for none"
    )
    night: Night = Night()
    forbidden_licences: tuple[str, ...] = Field(
        (), description="terms under which nothing that is promoted may come, as ASL; 'unknown' may be one"
    )

    @model_validator(mode="after")
    def _distinct(self) -> "Campaign":
        if not self.strategies:
            raise ValueError("candidates: is missing; list strategies, or those to try in 'sweep'")
        names = [candidate.name for candidate in self.candidates]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(
                f"candidates: two are called {', '.join(twice)}; remove one, or name it in 'called'"
            )
        if taken := sorted(_TAKEN & {strategy.name for strategy in self.strategies}):
            raise ValueError(f"candidates: none can be called {', '.join(taken)}; change 'called'")
        return self

    @model_validator(mode="before")
    @classmethod
    def _default_gate(cls, content: Any) -> Any:
        """Who says what is measured, and not what is asked for, is asked for the usual of that."""
        if isinstance(content, dict) and isinstance(content.get("checks"), list) and "gate" not in content:
            kinds = [check.get("kind") for check in content["checks"] if isinstance(check, dict)]
            return content | {"gate": [t for t in DEFAULT_GATE if t.check in kinds]}
        return content

    @model_validator(mode="after")
    def _gate_on_what_is_measured(self) -> "Campaign":
        kinds = [check.kind for check in self.checks]
        if twice := sorted({kind for kind in kinds if kinds.count(kind) > 1}):
            raise ValueError(f"checks: there are two of {', '.join(twice)}; remove one")
        for threshold in self.gate:
            if threshold.check not in kinds:
                raise ValueError(
                    f"gate: {threshold.figure} is of none of the checks {', '.join(kinds)}; add its check"
                )
            known = CHECKS[threshold.check].quantities
            if threshold.name not in known:
                raise ValueError(f"gate: {threshold.check} has no {threshold.name}, but {', '.join(known)}")
            if threshold.relative_to is not None and not known[threshold.name].paired:
                raise ValueError(
                    f"gate: {threshold.figure} has no samples, by which two models could be compared in "
                    "pairs; give an absolute limit"
                )
        return self

    @model_validator(mode="after")
    def _rounds_fit(self) -> "Campaign":
        if self.rounds is None:
            return self
        level = self.rounds.calculator.level_of_theory
        if level != self.labels.level_of_theory:
            raise ValueError(
                f"rounds.calculator: would give labels of {level}, and those there are are of "
                f"{self.labels.level_of_theory}; two levels are never mixed in one head"
            )
        kind = FIGURE.partition(".")[0]
        if kind not in [check.kind for check in self.checks]:
            raise ValueError(f"rounds: what they gain is seen by the check {kind}; add it to checks")
        replaying = [c.name for c in self.strategies if "replay_train" in c.replay_parts]
        if self.rounds.start == "previous" and replaying:
            raise ValueError(
                f"rounds.start: {replaying[0]} replays the foundation's own ground, so that it has to start "
                "from the foundation; set 'foundation', or take candidates without replay"
            )
        return self

    @field_validator("further")
    @classmethod
    def _heads_of_their_own(cls, further: dict[str, FurtherLabels]) -> dict[str, FurtherLabels]:
        for head in further:
            if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", head) or head in (TARGET_HEAD, REPLAY_HEAD):
                raise ValueError(
                    f"{head!r} cannot be a head's name: small letters, digits, '-' and '_', and neither "
                    f"{TARGET_HEAD!r} nor {REPLAY_HEAD!r}"
                )
        return further

    @property
    def strategies(self) -> list[AnyStrategy]:
        """Everything that it may fine-tune by: its candidates, and what its sweep tries."""
        return [*self.candidates, *(trial.strategy for trial in (self.sweep.trials() if self.sweep else ()))]

    def level(self, head: str) -> tuple[Labels, E0Policy]:
        """The labels that `head` learns, and where its E0s come from."""
        if head == TARGET_HEAD:
            return self.labels, self.e0s
        return self.further[head], self.further[head].e0s

    @property
    def comparable(self) -> dict[str, ReferenceTrajectories | ReferenceStructures]:
        """By role: what the checks can compare with, since it is at the labels' level of theory."""
        given: dict[str, ReferenceTrajectories | ReferenceStructures] = dict(self.evidence.items())
        if self.reference is not None:
            given["reference"] = self.reference
        level = self.labels.level_of_theory
        return {role: section for role, section in given.items() if section.level_of_theory == level}
