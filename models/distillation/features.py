"""What a network knows of atoms before it sees their neighbours, and after."""

from typing import Any

from models.networks import EdgeNetwork
from models.potentials import Network, irreps_dim


def embedding(network: Network) -> tuple[Any, str]:
    """The module and the name of its parameter that embeds the elements, one row each."""
    if isinstance(network, EdgeNetwork):
        return network, network.embeds
    return network.node_embedding.linear, "weight"


def n_invariants(network: Network) -> int:
    """How many of the last columns of the node features are the invariants of the last layer."""
    if isinstance(network, EdgeNetwork):
        return network.n_invariants
    return irreps_dim(str(network.products[-1].linear.irreps_out))  # a MACE's last layer keeps scalars only
