"""The two arms of a round: what a selector chose, and what chance did."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from models.selection.base import Candidates, Choice, Selector, new

Arm = Literal["selected", "control"]


@dataclass(frozen=True)
class Drawn:
    """One structure to label, and whose choice it was."""

    arm: Arm
    choice: Choice


def draw(
    selector: Selector,
    control: float,
    number: int,
    pool: Candidates,
    known: Candidates,
    rng: np.random.Generator,
) -> list[Drawn]:
    """Up to `number` new structures of `pool` in the order in which they are to be labelled.

    A share `control` of them is drawn at random from the whole pool, whatever the selector is, which then
    chooses from the rest. The control arm is spread evenly, so that a smaller budget keeps its share.
    """
    fresh = new(pool, known)
    n_control = round(control * min(number, len(fresh)))
    chance = [int(i) for i in rng.permutation(fresh)[:n_control]]
    rest = [i for i in fresh if i not in chance]
    found = selector.choose(pool.part(rest), known, number - n_control, rng)
    placed = [
        (k / len(found), Drawn("selected", Choice(rest[one.index], one.score))) for k, one in enumerate(found)
    ]
    placed += [((k + 0.5) / n_control, Drawn("control", Choice(i))) for k, i in enumerate(chance)]
    return [drawn for _, drawn in sorted(placed, key=lambda entry: entry[0])]
