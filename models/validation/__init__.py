"""Is a potential fit for use? The checks of an acceptance; each is one kind, the union is the registry."""

from typing import Annotated, get_args

from pydantic import Field, TypeAdapter

from models.validation.accuracy import Accuracy, Imitation, Retention
from models.validation.barriers import Barriers
from models.validation.base import Check
from models.validation.changes import Changes
from models.validation.conservation import EnergyConservation
from models.validation.consistency import Consistency
from models.validation.cost import Speed
from models.validation.crystals import Crystals
from models.validation.curvature import Curvature
from models.validation.distributions import Distributions, Dynamics
from models.validation.holes import Holes
from models.validation.moments import Moments
from models.validation.relaxation import Relaxation
from models.validation.repulsion import Repulsion
from models.validation.stability import Stability

_Kinds = (
    Accuracy
    | Moments
    | Imitation
    | Curvature
    | Retention
    | Distributions
    | Dynamics
    | Stability
    | EnergyConservation
    | Consistency
    | Repulsion
    | Holes
    | Relaxation
    | Barriers
    | Crystals
    | Speed
    | Changes
)

AnyCheck = Annotated[_Kinds, Field(discriminator="kind")]

CHECKS: dict[str, type[Check]] = {kind.model_fields["kind"].default: kind for kind in get_args(_Kinds)}
"""By name, in the order of a report."""

CHECK: TypeAdapter[AnyCheck] = TypeAdapter(AnyCheck)
"""Reads a check from JSON."""
