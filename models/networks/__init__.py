"""Networks of our own, by kind: each is made from a description, a JSON dictionary with the key `network`."""

from models.networks.ace import Ace
from models.networks.base import EdgeNetwork
from models.networks.painn import Painn

KINDS: dict[str, type[EdgeNetwork]] = {network.kind: network for network in (Ace, Painn)}

__all__ = ["KINDS", "Ace", "EdgeNetwork", "Painn"]
