"""Reference calculators. The union below is their registry and their schema in campaign files."""

from typing import Annotated

from pydantic import Field, TypeAdapter

from models.reference.ase import AseCalculator
from models.reference.base import (
    Limits,
    LocalCalculator,
    NotConverged,
    ReferenceCalculator,
    Unavailable,
)
from models.reference.chgnet import Chgnet
from models.reference.command import Command
from models.reference.cp2k import Cp2k
from models.reference.external import External
from models.reference.gpaw import Gpaw
from models.reference.pyscf import Pyscf
from models.reference.xtb import Tblite

AnyCalculator = Annotated[
    Tblite | Gpaw | Chgnet | Pyscf | Cp2k | Command | AseCalculator | External, Field(discriminator="kind")
]

CALCULATOR: TypeAdapter[AnyCalculator] = TypeAdapter(AnyCalculator)

__all__ = [
    "CALCULATOR",
    "AnyCalculator",
    "AseCalculator",
    "Chgnet",
    "Command",
    "Cp2k",
    "External",
    "Gpaw",
    "Limits",
    "LocalCalculator",
    "NotConverged",
    "Pyscf",
    "ReferenceCalculator",
    "Tblite",
    "Unavailable",
]
