"""Energies, forces, stress and moments by CHGNet (Deng et al., Nat. Mach. Intell. 5, 1031, 2023)."""

import contextlib
import io
import warnings
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from ase import Atoms

from models.datasets import DataError
from models.reference.base import (
    LocalCalculator,
    Result,
    answer,
    charge_and_multiplicity,
    package,
)

INSTALL = "pip install 'temper-mlip[chgnet]'"


class Chgnet(LocalCalculator):
    """A teacher of moments: a universal model of PBE(+U) whose labels cost fractions of a second.

    It sees no moments: of a structure it says the magnitudes in the ground state that it was trained on, all
    positive, whatever the magnetic order. Energies are of Materials Project's corrected scale.
    """

    kind: Literal["chgnet"] = "chgnet"
    model: Literal["0.3.0", "r2scan"] = "0.3.0"
    levels: ClassVar[dict[str, str]] = {"0.3.0": "PBE+U (CHGNet 0.3.0)", "r2scan": "r2SCAN (CHGNet r2scan)"}

    @property
    def level_of_theory(self) -> str:
        """What the model was trained on, and that it is a model."""
        return self.levels[self.model]

    def version(self) -> str:
        """Version of the package, which the weights come with; raises Unavailable."""
        package("chgnet", INSTALL)
        return metadata.version("chgnet")

    def suit(self, atoms: Atoms) -> None:
        """Raise DataError where a structure is not periodic, or charged."""
        charge, _ = charge_and_multiplicity(atoms)
        if not atoms.pbc.all():
            raise DataError("not periodic; CHGNet knows crystals. Give it a cell in three directions")
        if charge:
            raise DataError(f"has charge {charge}; CHGNet knows neutral crystals only")

    def compute(self, atoms: Atoms, charge: int, multiplicity: int, work: Path) -> Result:
        """See `LocalCalculator.compute`."""
        atoms.calc = self._calculator()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, of how CHGNet collects volumes
            result = answer(atoms)
        return replace(result, magmoms=np.asarray(atoms.get_magnetic_moments(), dtype=float))

    def _calculator(self) -> Any:
        dynamics = package("chgnet.model.dynamics", INSTALL)
        networks = package("chgnet.model.model", INSTALL)
        with contextlib.redirect_stdout(io.StringIO()):  # it says where it runs
            model = networks.CHGNet.load(model_name=self.model, use_device="cpu", verbose=False)
            return dynamics.CHGNetCalculator(model, use_device="cpu", on_isolated_atoms="error")
