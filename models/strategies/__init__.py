"""Fine-tuning strategies. The union below is their registry and their schema in campaign files."""

from typing import Annotated

from pydantic import Field

from models.strategies.base import REPLAY_HEAD, TARGET_HEAD, Strategy, TrainingData
from models.strategies.naive import Naive
from models.strategies.replay import PseudolabelledReplay

AnyStrategy = Annotated[Naive | PseudolabelledReplay, Field(discriminator="kind")]

__all__ = [
    "REPLAY_HEAD",
    "TARGET_HEAD",
    "AnyStrategy",
    "Naive",
    "PseudolabelledReplay",
    "Strategy",
    "TrainingData",
]
