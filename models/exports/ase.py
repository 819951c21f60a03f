"""For ASE: the checkpoint, and for a MACE the plain `.model` that mace-torch's own calculator opens."""

import contextlib
import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from ase import Atoms
from ase.calculators.calculator import Calculator

from models.calculator import PotentialCalculator
from models.exports.base import Format, Source
from models.graphs import Prediction, as_matrix
from models.potentials import architecture, building, export_mace, load


class AseFormat(Format):
    """A calculator of ASE."""

    name = "ase"
    moments = True

    def write(self, source: Source, folder: Path) -> Path:
        """The `.model` of a MACE, beside its checkpoint; the checkpoint of another network."""
        checkpoint = source.checkpoint(folder)
        if not _is_mace(source):
            return checkpoint
        path = folder / f"{source.name}.model"
        export_mace(source.potential, path)
        return path

    def evaluate(self, file: Path, structures: Sequence[Atoms]) -> list[Prediction]:
        """With mace-torch's calculator, or with Temper's."""
        calculator = _mace_calculator(file) if file.suffix == ".model" else PotentialCalculator(load(file))
        return [_prediction(calculator, atoms) for atoms in structures]

    def usage(self, source: Source, file: str) -> str:
        """Temper's calculator, and where there is a `.model` mace-torch's."""
        ours = f"""\
```python
from pathlib import Path

from models.calculator import PotentialCalculator  # Temper
from models.potentials import load

atoms.calc = PotentialCalculator(load(Path("{source.name}.safetensors")))
```"""
        if not _is_mace(source):
            return ours
        return f"""{ours}

or, with mace-torch and without Temper:

```python
from mace.calculators import MACECalculator

atoms.calc = MACECalculator(model_paths="{file}", device="cpu", default_dtype="float64")
```"""


def _is_mace(source: Source) -> bool:
    return "network" not in architecture(source.potential.network) and not source.potential.magnetic


def _mace_calculator(file: Path) -> Calculator:
    from mace.calculators import MACECalculator

    # It prints, warns of its own pickle, and leaves torch with another default type.
    with building(torch.float64), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        return MACECalculator(model_paths=str(file), device="cpu", default_dtype="float64")


def _prediction(calculator: Calculator, atoms: Atoms) -> Prediction:
    periodic = bool(atoms.pbc.all())
    return Prediction(
        energy=float(calculator.get_potential_energy(atoms)),
        forces=calculator.get_forces(atoms),
        stress=as_matrix(calculator.get_stress(atoms)) if periodic else None,
    )
