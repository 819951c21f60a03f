"""Student architectures. The union below is their registry and their schema in campaign files."""

from typing import Annotated

from pydantic import Field, TypeAdapter

from models.distillation.students.ace import Ace
from models.distillation.students.base import Student
from models.distillation.students.painn import Painn
from models.distillation.students.small_mace import SmallMace

AnyStudent = Annotated[SmallMace | Painn | Ace, Field(discriminator="kind")]

STUDENT: TypeAdapter[AnyStudent] = TypeAdapter(AnyStudent)

__all__ = ["STUDENT", "Ace", "AnyStudent", "Painn", "SmallMace", "Student"]
