"""Layer freezing: only the last parts of the network are trained."""

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from models.potentials import Network, Potential
from models.strategies.base import Strategy, Target
from models.training import Optimisation


class Frozen(Strategy):
    """Some parts stay the foundation's (arXiv 2606.12704, strategies 2 and 3).

    Training `products_and_readouts` keeps the embedding and the interactions, which is what
    `mace_run_train` calls `--freeze=5`; training only the `readouts` is its `--freeze=6`.
    """

    kind: Literal["frozen"] = "frozen"
    optimisation: Optimisation = Optimisation()
    trains: Literal["products_and_readouts", "readouts"] = Field(
        "products_and_readouts", description="the parts of the network that change"
    )

    def _described(self) -> str:
        return "frozen-interactions" if self.trains == "products_and_readouts" else "frozen-but-readouts"

    def build(self, foundation: Potential, targets: Mapping[str, Target], elements: Sequence[int]) -> Network:
        """The foundation with only the chosen parts' parameters differentiated."""
        network = super().build(foundation, targets, elements).requires_grad_(False)
        parts = self.trains.split("_and_")
        # Moments are read out of the last features, too.
        for part in (*parts, "magnetism") if hasattr(network, "magnetism") else parts:
            getattr(network, part).requires_grad_(True)
        return network
