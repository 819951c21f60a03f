"""Kinds of uncertainty. The union below is their registry and their schema in campaign files."""

from typing import Annotated

from pydantic import Field, TypeAdapter

from models.uncertainty.base import Uncertainty
from models.uncertainty.committee import Committee
from models.uncertainty.estimator import Estimate, Estimator
from models.uncertainty.heads import Heads
from models.uncertainty.last_layer import LastLayer

AnyUncertainty = Annotated[Committee | Heads | LastLayer, Field(discriminator="kind")]

UNCERTAINTY: TypeAdapter[AnyUncertainty] = TypeAdapter(AnyUncertainty)

__all__ = [
    "UNCERTAINTY",
    "AnyUncertainty",
    "Committee",
    "Estimate",
    "Estimator",
    "Heads",
    "LastLayer",
    "Uncertainty",
]
