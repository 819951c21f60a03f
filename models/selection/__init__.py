"""Which structures are worth a label. The union below is the registry and the schema in campaign files."""

from typing import Annotated

from pydantic import Field, TypeAdapter

from models.selection.base import Candidates, Choice, Selector
from models.selection.direct import Direct
from models.selection.farthest_point import FarthestPoint
from models.selection.novelty import Novelty
from models.selection.random import Random
from models.selection.threshold import Threshold

AnySelector = Annotated[Threshold | FarthestPoint | Novelty | Direct | Random, Field(discriminator="kind")]

SELECTOR: TypeAdapter[AnySelector] = TypeAdapter(AnySelector)

__all__ = [
    "SELECTOR",
    "AnySelector",
    "Candidates",
    "Choice",
    "Direct",
    "FarthestPoint",
    "Novelty",
    "Random",
    "Selector",
    "Threshold",
]
