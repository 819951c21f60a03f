"""Fine-tuning strategies. The union below is their registry and their schema in campaign files."""

from typing import Annotated

from pydantic import Field, TypeAdapter

from models.strategies.base import REPLAY_HEAD, TARGET_HEAD, Strategy, Target, TrainingData
from models.strategies.frozen import Frozen
from models.strategies.lora import Lora
from models.strategies.naive import Naive
from models.strategies.replay import (
    MultiheadReplay,
    PseudolabelledReplay,
    ReplayLora,
    SparsePseudolabelledReplay,
    SparseReplay,
)
from models.strategies.scratch import FromScratch
from models.strategies.sparse import Masked, Sparse

AnyStrategy = Annotated[
    FromScratch
    | Naive
    | Frozen
    | Lora
    | Sparse
    | Masked
    | MultiheadReplay
    | PseudolabelledReplay
    | ReplayLora
    | SparseReplay
    | SparsePseudolabelledReplay,
    Field(discriminator="kind"),
]

STRATEGY: TypeAdapter[AnyStrategy] = TypeAdapter(AnyStrategy)

__all__ = [
    "REPLAY_HEAD",
    "STRATEGY",
    "TARGET_HEAD",
    "AnyStrategy",
    "FromScratch",
    "Frozen",
    "Lora",
    "Masked",
    "MultiheadReplay",
    "Naive",
    "PseudolabelledReplay",
    "ReplayLora",
    "Sparse",
    "SparsePseudolabelledReplay",
    "SparseReplay",
    "Strategy",
    "Target",
    "TrainingData",
]
