"""Naive fine-tuning: every parameter, from the foundation's weights."""

from typing import Literal

from models.strategies.base import Strategy
from models.training import Optimisation


class Naive(Strategy):
    """All parameters on the target's labels alone (arXiv 2606.12704, strategy 1)."""

    kind: Literal["naive"] = "naive"
    optimisation: Optimisation = Optimisation()
