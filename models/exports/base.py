"""What every format of export is: a small value that writes files, and computes with what it wrote."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ase import Atoms

from models.graphs import Prediction
from models.potentials import Potential, save


class ExportError(ValueError):
    """An export that cannot be made; the message says why, and what can be done."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """What is exported: a potential with one head, and what its files are called.

    `about` is the JSON that travels in every file that has room for it: name, level of theory, licence,
    citation, sha256 of the checkpoint, versions.
    """

    potential: Potential
    name: str
    about: Mapping[str, Any]

    @property
    def direct(self) -> bool:
        """Whether forces are the network's own and not the gradient of its energy."""
        return bool(getattr(self.potential.network, "direct", False))

    def checkpoint(self, folder: Path) -> Path:
        """The potential as a checkpoint in `folder`; written once."""
        path = folder / f"{self.name}.safetensors"
        if not path.exists():
            save(self.potential, path)
        return path


class Format(ABC):
    """One kind of export."""

    name: ClassVar[str]
    moments: ClassVar[bool] = False
    """Whether what is written knows magnetic moments, where the potential does."""

    @abstractmethod
    def write(self, source: Source, folder: Path) -> Path:
        """Write the file that `evaluate` opens; raises ExportError where there can be none."""

    @abstractmethod
    def evaluate(self, file: Path, structures: Sequence[Atoms]) -> list[Prediction]:
        """What the file says of structures, opened and asked as its users do."""

    @abstractmethod
    def usage(self, source: Source, file: str) -> str:
        """How to use the file, as Markdown."""
