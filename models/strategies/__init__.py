"""Fine-tuning strategies. The union below is their registry and their schema in campaign files."""

from typing import Annotated

from pydantic import Field, TypeAdapter

from models.strategies.base import REPLAY_HEAD, TARGET_HEAD, Strategy, Target, TrainingData
from models.strategies.frozen import Frozen
from models.strategies.lora import Lora
from models.strategies.naive import Naive
from models.strategies.replay import MultiheadReplay, PseudolabelledReplay, ReplayLora
from models.strategies.scratch import FromScratch

AnyStrategy = Annotated[
    FromScratch | Naive | Frozen | Lora | MultiheadReplay | PseudolabelledReplay | ReplayLora,
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
    "MultiheadReplay",
    "Naive",
    "PseudolabelledReplay",
    "ReplayLora",
    "Strategy",
    "Target",
    "TrainingData",
]
