"""Molecular dynamics that is watched, and stopped or steered where the potential does not know."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
from ase import Atoms
from pydantic import Field, PositiveFloat, field_validator, model_validator

from models.datasets import DataError
from models.dynamics import md
from models.dynamics.integrators import Isobaric, Langevin
from models.dynamics.limits import Failure, Limits, Reason
from models.dynamics.replicas import Replica
from models.exploration.base import Explorer, Scene, alike
from models.uncertainty import Estimate, Estimator

TRUST = 3.0  # times what is usual for held-out labels
BEYOND = 3.0  # times the trusted uncertainty, where a steered walker stops
SEGMENT = 1000  # steps, about: what a kill costs at most
MEMORY = 0.9  # of a look, in the mean sizes of forces and gradients


class Dynamics(Explorer):
    """Many walkers at every temperature and, where they are periodic, every pressure.

    A walker stops where it explodes, and where the uncertainty of an atom passes what is trusted; the last
    sound frame is kept either way. With `beyond="bias"` a force along the gradient of the energy's spread
    leads walkers to what the potential does not know (hyperactive learning, arXiv:2210.04225), and they stop
    at three times what is trusted.
    """

    kind: Literal["dynamics"] = "dynamics"
    temperatures: tuple[PositiveFloat, ...] = Field((300.0, 500.0), min_length=1, description="K")
    pressures: tuple[float, ...] = Field(
        (), description="GPa, for starts that are periodic in three directions; none: their cells stay"
    )
    walkers: int = Field(4, ge=1, description="at each temperature and pressure")
    duration: float = Field(1000.0, gt=0, description="fs, of each walker")
    time_step: float = Field(0.5, gt=0, description="fs")
    friction: float = Field(0.02, gt=0, description="1/fs")
    save_every: int = Field(40, ge=1, description="steps; a multiple of watch_every")
    watch_every: int = Field(10, ge=1, description="steps from one look at the uncertainty to the next")
    trust: float | None = Field(
        None,
        gt=0,
        description="eV/Å, of the least certain atom; else 3 times the median of held-out labels",
    )
    beyond: Literal["stop", "bias"] = "stop"
    bias: float = Field(0.1, gt=0, description="size of the force that steers, over that of the others")
    limits: Limits = Limits()

    @field_validator("temperatures", "pressures")
    @classmethod
    def _different(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if len({f"{value:g}" for value in values}) < len(values):
            raise ValueError("one comes twice; set walkers to have more of them")
        return values

    @model_validator(mode="after")
    def _looks_at_what_it_saves(self) -> "Dynamics":
        if self.save_every % self.watch_every:
            raise ValueError(
                f"save_every ({self.save_every}) must be a multiple of watch_every ({self.watch_every})"
            )
        return self

    def explore(self, scene: Scene) -> list[Atoms]:
        """Temperature by temperature and pressure by pressure, in segments that are written down.

        Raises DataError where there is no uncertainty to be led by.
        """
        if self.beyond == "bias" and scene.uncertainty is None:
            raise DataError(f"{scene.name}: beyond: bias needs an uncertainty; set beyond: stop")
        found: list[Atoms] = []
        for number, temperature in enumerate(self.temperatures):
            rng = scene.rng(number)
            order = np.concatenate([rng.permutation(len(scene.starts)) for _ in range(self.walkers)])
            starts = [scene.starts[i] for i in order[: self.walkers]]
            for place, pressure in enumerate((None, *self.pressures)):
                moving = [s for s in starts if not self.pressures or s.pbc.all() == (pressure is not None)]
                found += self._walks(scene, (number, place), moving, temperature, pressure)
        return found

    def _walks(
        self,
        scene: Scene,
        numbers: tuple[int, int],
        starts: Sequence[Atoms],
        temperature: float,
        pressure: float | None,
    ) -> list[Atoms]:
        """The frames of walkers from these starts, by walker and time."""
        info: dict[str, Any] = {"temperature": temperature}
        name = f"{temperature:g}K"
        if pressure is not None:
            info["pressure"] = pressure
            name += f"-{pressure:g}GPa"
        walkers = [
            alike(start, start, **info, walker=f"{scene.name}-{name}-{k}", time_fs=0.0)
            for k, start in enumerate(starts)
        ]
        steps = self.save_every * max(1, round(self.duration / self.time_step / self.save_every))
        segment = self.save_every * max(1, round(SEGMENT / self.save_every))
        frames: dict[tuple[str, float], Atoms] = {}
        for number, began in enumerate(range(0, steps, segment)):
            if not walkers:
                break
            lasts = min(segment, steps - began)
            find = partial(self._segment, scene, (*numbers, number), walkers, began, lasts, steps)
            part = scene.once(f"{name}-{number}", find)
            # Of a walker that fails right away, the last frame comes once more, with the failure.
            frames |= {(atoms.info["walker"], atoms.info["time_fs"]): atoms for atoms in part}
            last = {atoms.info["walker"]: atoms for atoms in part}
            ended = (began + lasts) * self.time_step
            walkers = [
                atoms
                for atoms in last.values()
                if abs(atoms.info["time_fs"] - ended) < 0.5 * self.time_step
                and not {"failure", "stopped"} & atoms.info.keys()
            ]
        names = {walker: k for k, walker in enumerate(dict.fromkeys(walker for walker, _ in frames))}
        return [frames[key] for key in sorted(frames, key=lambda key: (names[key[0]], key[1]))]

    def _segment(
        self,
        scene: Scene,
        numbers: tuple[int, int, int],
        walkers: Sequence[Atoms],
        began: int,
        lasts: int,
        steps: int,
    ) -> list[Atoms]:
        """What is seen of walkers in `lasts` of all `steps`, from step `began` on."""
        temperature = float(walkers[0].info["temperature"])
        thermostat = {"temperature": temperature, "time_step": self.time_step, "friction": self.friction}
        pressure = walkers[0].info.get("pressure")
        watch = _Watch(self, walkers, began, scene.estimator())
        runs = md.run(
            scene.potential,
            walkers,
            Langevin(**thermostat) if pressure is None else Isobaric(**thermostat, pressure=pressure),
            steps=lasts,
            seed=int(scene.rng(*numbers).integers(2**31)),
            save_every=self.save_every,
            velocities_from_temperature=None if began else temperature,
            stop_on=self.limits,
            report=lambda step, running: scene.tell(step=began + step, steps=steps, running=running),
            watch=watch,
        )
        return [atoms for k, run in enumerate(runs) for atoms in watch.seen(k, run.failure)]


class _Watch:
    """Keeps what it sees of walkers, and stops or steers them by their uncertainty."""

    def __init__(
        self, explorer: Dynamics, walkers: Sequence[Atoms], began: int, estimator: Estimator | None
    ) -> None:
        self.every = explorer.watch_every
        self._began = began
        self._explorer = explorer
        self._starts = walkers
        self._latest = list(walkers)
        self._frames: list[list[Atoms]] = [[] for _ in walkers]
        self._estimator = estimator
        self._sizes = np.zeros((len(walkers), 2))
        self._limit = np.inf
        if estimator is not None:
            trust = explorer.trust or TRUST * estimator.typical
            self._limit = trust * (BEYOND if explorer.beyond == "bias" else 1.0)

    def look(self, step: int, running: Sequence[Replica]) -> None:
        """Keep a frame where one is due, and ask how certain the potential is."""
        frames = [self._frame(replica, step) for replica in running]
        for replica, frame in zip(running, frames, strict=True):
            self._latest[replica.number] = frame
            if step and step % self._explorer.save_every == 0:
                self._frames[replica.number].append(frame)
        if self._estimator is None or not frames:
            return
        for replica, said in zip(running, self._estimator.estimate(frames), strict=True):
            if not said.largest <= self._limit:
                replica.failure = self._uncertain(said, step)
            elif self._explorer.beyond == "bias":
                replica.bias = self._steered(replica.number, said)

    def seen(self, number: int, failure: Failure | None) -> list[Atoms]:
        """All that is kept of a walker; the last one tells why it went no further."""
        frames, last = self._frames[number], self._latest[number]
        if failure is None:
            return frames
        key = "stopped" if failure.reason is Reason.UNCERTAIN else "failure"
        time = self._began * self._explorer.time_step + failure.time_fs
        last.info[key] = f"{failure.reason} after {time:g} fs: {failure.detail}"
        return frames if frames and frames[-1] is last else [*frames, last]

    def _frame(self, replica: Replica, step: int) -> Atoms:
        time = (self._began + step) * self._explorer.time_step
        snapshot = replica.snapshot()
        frame = alike(self._starts[replica.number], snapshot)
        frame.info = self._starts[replica.number].info | {"time_fs": time}
        frame.set_array("momenta", snapshot.get_momenta())
        return frame

    def _uncertain(self, said: Estimate, step: int) -> Failure:
        return Failure(
            reason=Reason.UNCERTAIN,
            time_fs=step * self._explorer.time_step,
            value=said.largest,
            limit=self._limit,
            detail=f"{said.largest:.2g} eV/Å where {self._limit:.2g} is trusted",
        )

    def _steered(self, number: int, said: Estimate) -> np.ndarray:
        """A force up the energy's spread; on the way its size follows that of the gradient."""
        sizes = np.array([np.sqrt((said.forces**2).mean()), np.sqrt((said.gradient**2).mean())])
        known = self._sizes[number].any()
        self._sizes[number] = MEMORY * self._sizes[number] + (1.0 - MEMORY) * sizes if known else sizes
        force, gradient = self._sizes[number]
        steered: np.ndarray = self._explorer.bias * force / max(gradient, 1e-12) * said.gradient
        return steered
