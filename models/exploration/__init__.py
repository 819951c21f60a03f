"""Explorers. The union below is their registry and their schema in campaign files."""

from typing import Annotated

from pydantic import Field, TypeAdapter

from models.exploration.base import Explorer, Scene
from models.exploration.dynamics import Dynamics
from models.exploration.excursions import Excursions
from models.exploration.normal_modes import NormalModes
from models.exploration.random_search import RandomSearch
from models.exploration.reaction_paths import ReactionPaths

AnyExplorer = Annotated[
    Dynamics | Excursions | RandomSearch | NormalModes | ReactionPaths, Field(discriminator="kind")
]

EXPLORERS: TypeAdapter[tuple[AnyExplorer, ...]] = TypeAdapter(tuple[AnyExplorer, ...])

__all__ = [
    "EXPLORERS",
    "AnyExplorer",
    "Dynamics",
    "Excursions",
    "Explorer",
    "NormalModes",
    "RandomSearch",
    "ReactionPaths",
    "Scene",
]
