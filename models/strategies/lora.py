"""Low-rank adaptation: small updates of rank r to every linear layer, merged after training."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field

from models.potentials import Network, Potential, building
from models.strategies.base import Strategy, Target
from models.training import EmptyTraining, Optimisation


class LowRank(Strategy):
    """What LoRA adds to a strategy: W becomes W + (alpha / rank) B A, and only A and B are trained.

    Equivariant linear layers have a pair for every irrep; scalar ones and radial MLPs have one. B
    starts at zero, so the network starts as the foundation; after training the product is added to
    W, and a plain network is left.
    """

    rank: int = Field(16, ge=1, description="the paper has 4, 16 and 64")
    alpha: float = Field(1.0, gt=0, description="strength of the update")

    def _described(self) -> str:
        return f"{super()._described()}-r{self.rank}"

    def build(self, foundation: Potential, targets: Mapping[str, Target], elements: Sequence[int]) -> Network:
        """The foundation with adapters; the seed of the optimisation draws A."""
        network = super().build(foundation, targets, elements)
        return with_adapters(network, self.rank, self.alpha, self.optimisation.seed)

    def finish(self, network: Network) -> Network:
        """The specialist with the adapters merged into its weights."""
        from models.mace_torch import lora

        return super().finish(lora.merge_lora_weights(network, inplace=False))


class Lora(LowRank):
    """LoRA on the target's labels alone (arXiv 2606.12704, strategy 4)."""

    kind: Literal["lora"] = "lora"
    optimisation: Optimisation = Optimisation(learning_rate=1e-2, ema_decay=0.99, clip_gradient=10.0)


def with_adapters(network: Network, rank: int, alpha: float, seed: int) -> Network:
    """The network itself, with adapters in its layers and everything else frozen.

    Raises EmptyTraining where it has no layer that an adapter fits.
    """
    from models.mace_torch import lora

    with torch.random.fork_rng(devices=[]), building(next(network.parameters()).dtype):
        torch.manual_seed(seed)
        lora.inject_lora(network, rank=rank, alpha=alpha)
    adapted = lora.LoRADenseLinear | lora.LoRAFCLayer | lora.LoRAO3Linear
    if not any(isinstance(m, adapted) for m in network.modules()):
        raise EmptyTraining(f"{type(network).__name__} has no layer that a LoRA adapter fits")
    return network
