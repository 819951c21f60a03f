"""A sweep: strategies and the settings to try, and how trainings are spent on them.

Successive halving (Jamieson & Talwalkar, AISTATS 2016, arXiv:1502.07943): all trials are trained for a share
of their epochs, the better part of them for more, and so on; the last rung trains for all epochs and with all
seeds.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from itertools import product
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    Tag,
    ValidationError,
    model_validator,
)

from models.strategies import STRATEGY, AnyStrategy

MOST = 100
"""Trials of a sweep: more are a mistake, or somebody else's idea of one."""

_NOT_VARIED = {
    "kind": "list another candidate",
    "called": "a trial is named by its settings",
    "optimisation.seed": "seeds are given in the sweep's own 'seeds'",
}
_DIGITS = 6  # of a number in a range
_LONG = 1e6  # numbers above are not written out in a name


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Range(_Section):
    """Numbers between two ends, both included; whole where both ends are."""

    low: int | float
    high: int | float
    n: int = Field(ge=2, le=MOST, description="how many")
    spacing: Literal["log", "linear"] = Field("log", description="equal ratios, or equal steps")

    @model_validator(mode="after")
    def _ordered(self) -> "Range":
        if not self.low < self.high:
            raise ValueError("low has to be below high")
        if self.spacing == "log" and self.low <= 0:
            raise ValueError("low has to be above zero for equal ratios; else say spacing: linear")
        return self

    @property
    def values(self) -> list[JsonValue]:
        """The numbers, each once."""
        spaced = (np.geomspace if self.spacing == "log" else np.linspace)(self.low, self.high, self.n)
        if isinstance(self.low, int) and isinstance(self.high, int):
            return list(dict.fromkeys(round(x) for x in spaced.tolist()))
        return [float(f"{x:.{_DIGITS}g}") for x in spaced.tolist()]


def _listed(given: object) -> object:
    if not isinstance(given, list | tuple) or not given:
        raise ValueError("give a list of values, as [4, 16, 64], or a range, as {low: 4, high: 64, n: 3}")
    return given


Values = Annotated[
    Annotated[Range, Tag("range")] | Annotated[tuple[JsonValue, ...], BeforeValidator(_listed), Tag("list")],
    Discriminator(lambda given: "range" if isinstance(given, dict | Range) else "list"),
]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One strategy that is tried.

    Attributes:
        settings: those that the sweep varies, by their dotted names.
        strategy: with all its epochs.
    """

    settings: Mapping[str, JsonValue]
    strategy: AnyStrategy

    @property
    def name(self) -> str:
        """What its trainings are called."""
        return self.strategy.name

    @property
    def epochs(self) -> int:
        """What the last rung trains it for."""
        return self.strategy.optimisation.epochs

    def at(self, epochs: int, seed: int) -> AnyStrategy:
        """The strategy with so many epochs."""
        pace = {"epochs": epochs, "seed": seed}
        optimisation = self.strategy.optimisation.model_copy(update=pace)
        return self.strategy.model_copy(update={"optimisation": optimisation})


class Grid(_Section):
    """One strategy, and the settings of it that are varied, each with each."""

    strategy: AnyStrategy
    settings: dict[str, Values] = Field(
        {}, description="by dotted name, as rank or optimisation.learning_rate: the values to try"
    )

    @model_validator(mode="after")
    def _expandable(self) -> "Grid":
        for name, why in _NOT_VARIED.items():
            if name in self.settings:
                raise ValueError(f"settings.{name}: is not varied: {why}")
        if self.count > MOST:
            raise ValueError(f"settings: make {self.count} trials; take fewer values, at most {MOST} trials")
        self.trials()
        return self

    @property
    def values(self) -> dict[str, Sequence[JsonValue]]:
        """The values to try, by setting."""
        return {
            name: given.values if isinstance(given, Range) else given for name, given in self.settings.items()
        }

    @property
    def count(self) -> int:
        """How many trials there are."""
        return math.prod(map(len, self.values.values()))

    def trials(self) -> list[Trial]:
        """Every combination of the settings; raises ValueError naming the setting that cannot be."""
        values = self.values
        return [self._trial(dict(zip(values, chosen, strict=True))) for chosen in product(*values.values())]

    def _trial(self, settings: Mapping[str, JsonValue]) -> Trial:
        content = self.strategy.model_dump()
        for dotted, value in settings.items():
            *sections, last = dotted.split(".")
            section: Any = content
            for name in sections:
                section = section.get(name)
                if not isinstance(section, dict):
                    raise ValueError(f"settings.{dotted}: {_unknown(self.strategy)}")
            section[last] = value
        try:
            strategy = STRATEGY.validate_python(content)
        except ValidationError as error:
            raise ValueError(_readable(error.errors()[0], settings, self.strategy)) from None
        read = {dotted: _get(strategy, dotted) for dotted in settings}
        if settings:
            first = self.strategy.called or self.strategy.kind
            called = _slug("-".join([first, *(f"{_short(d, read)}-{_text(v)}" for d, v in read.items())]))
            strategy = strategy.model_copy(update={"called": called})
        return Trial(settings=read, strategy=strategy)


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One stage of a sweep.

    Attributes:
        number: from 1.
        trials: how many take part, where none has failed.
        seeds: each of them is trained with.
        share: of its epochs that each is trained for.
    """

    number: int
    trials: int
    seeds: Sequence[int]
    share: Fraction

    def epochs(self, trial: Trial) -> int:
        """What a trial is trained for in this rung."""
        return math.ceil(trial.epochs * self.share)

    def strategy(self, trial: Trial, seed: int) -> AnyStrategy:
        """What a trial trains in this rung."""
        return trial.at(self.epochs(trial), seed)


class Sweep(_Section):
    """Which strategies and settings are tried, and how many trainings that may take."""

    candidates: tuple[Grid, ...] = Field(min_length=1)
    rungs: int = Field(3, ge=1, description="how often the better trials are picked and trained for longer")
    eta: int = Field(2, ge=2, description="one in so many goes on, with so many times the epochs")
    seeds: tuple[int, ...] = Field(
        (0, 1, 2), min_length=1, description="of the last rung; the rungs before train with the first"
    )
    tolerance: float = Field(
        0.02, ge=0, lt=1, description="share of the best value within which another is as good"
    )
    prefer: Literal["retention", "parameters", "cpu_seconds"] = Field(
        "retention",
        description="the least of this is recommended, of what is as good on the target",
    )

    @model_validator(mode="after")
    def _feasible(self) -> "Sweep":
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: one stands there twice; remove it")
        trials = self.trials()
        if not 2 <= len(trials) <= MOST:
            raise ValueError(f"candidates: make {len(trials)} trials; a sweep compares 2 to {MOST}")
        names = [trial.name for trial in trials]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(
                f"candidates: two trials are called {twice[0]}; remove one, or say 'called' in its strategy"
            )
        least = self.eta ** (self.rungs - 1)
        for trial in trials:
            if trial.epochs < least:
                raise ValueError(
                    f"candidates: {trial.name} has {trial.epochs} epochs, which {self.rungs} rungs by "
                    f"{self.eta} cannot share out; give it {least} or more, or take fewer rungs"
                )
        return self

    def trials(self) -> list[Trial]:
        """Everything that is tried."""
        return [trial for grid in self.candidates for trial in grid.trials()]

    def schedule(self) -> list[Rung]:
        """The rungs, the first with all trials."""
        trials, last = len(self.trials()), self.rungs - 1
        return [
            Rung(
                number=k + 1,
                trials=math.ceil(Fraction(trials, self.eta**k)),
                seeds=self.seeds if k == last else self.seeds[:1],
                share=Fraction(1, self.eta ** (last - k)),
            )
            for k in range(self.rungs)
        ]

    def goes_on(self, trial: Trial, rung: Rung) -> bool:
        """Whether a training of this rung, with the first seed, goes on in the next one.

        Else the next one starts anew: its first epochs are others, as those of a longer cosine.
        """
        following = self.schedule()[rung.number : rung.number + 1]
        return bool(following) and rung.strategy(trial, self.seeds[0]).begins(
            following[0].strategy(trial, self.seeds[0])
        )

    def budget(self) -> list[int]:
        """The epochs that each rung trains, at most: which trials reach it is not known before."""
        trials, schedule, spent = self.trials(), self.schedule(), []
        for before, rung in zip([None, *schedule], schedule, strict=False):
            costs = []
            for trial in trials:
                done = before.epochs(trial) if before and self.goes_on(trial, before) else 0
                costs.append(rung.epochs(trial) * len(rung.seeds) - done)
            spent.append(sum(sorted(costs)[-rung.trials :]))
        return spent

    def told(self) -> list[str]:
        """What it will cost, a line for each rung and one for all."""
        budget, trials = self.budget(), self.trials()
        lines = []
        for rung, most in zip(self.schedule(), budget, strict=True):
            ends = sorted({rung.epochs(trial) for trial in trials})
            each = f"{ends[0]} epochs" if len(ends) == 1 else f"{ends[0]} to {ends[-1]} epochs"
            seeds = f", {len(rung.seeds)} seeds" if len(rung.seeds) > 1 else ""
            lines.append(
                f"rung {rung.number}: {rung.trials} trials, {each}{seeds}; at most {most} epochs in all"
            )
        every = sum(trial.epochs for trial in trials) * len(self.seeds)
        return [*lines, f"at most {sum(budget)} epochs; all trials to their end would take {every}"]

    def seeded(self, seed: int) -> "Sweep":
        """The same sweep with as many other seeds, `seed` the first."""
        return self.model_copy(update={"seeds": tuple(range(seed, seed + len(self.seeds)))})


def _readable(mistake: Any, settings: Mapping[str, JsonValue], strategy: AnyStrategy) -> str:
    """A mistake of a strategy, by the setting that brought it."""
    dotted = ".".join(str(part) for part in mistake["loc"][1:])
    if mistake["type"] == "extra_forbidden":
        return f"settings.{dotted}: {_unknown(strategy)}"
    message = mistake["msg"].removeprefix("Value error, ")
    name = next((name for name in settings if f"{dotted}.".startswith(f"{name}.")), None)
    given = {name: settings[name]} if name else settings
    return f"settings.{', '.join(f'{key} = {json.dumps(value)}' for key, value in given.items())}: {message}"


def _unknown(strategy: AnyStrategy) -> str:
    known = ", ".join(sorted(set(_settings(strategy)) - _NOT_VARIED.keys()))
    return f"{strategy.kind} has no such setting; it has {known}"


def _settings(model: BaseModel, before: str = "") -> Iterator[str]:
    """The dotted names of all settings of a strategy."""
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from _settings(value, f"{before}{name}.")
        else:
            yield f"{before}{name}"


def _get(model: BaseModel, dotted: str) -> Any:
    value: Any = model
    for name in dotted.split("."):
        value = value[name] if isinstance(value, Mapping) else getattr(value, name)
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


def _short(dotted: str, among: Mapping[str, Any]) -> str:
    """The last part of a setting's name, where no other ends alike."""
    last = dotted.rpartition(".")[2]
    return last if [name.rpartition(".")[2] for name in among].count(last) == 1 else dotted


def _text(value: Any) -> str:
    """A setting in a name, where there can be no point: 0.003 is 3e-3."""
    if not isinstance(value, float) or not math.isfinite(value):
        return json.dumps(value)
    if value.is_integer() and abs(value) < _LONG:
        return str(int(value))
    sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    return f"{'-' if sign else ''}{''.join(map(str, digits))}e{exponent}"


def _slug(text: str) -> str:
    return re.sub("[^a-z0-9]+", "-", text.lower()).strip("-")
