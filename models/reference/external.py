"""Labels that somebody else's machines compute: what is asked for, and in which programs' inputs."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal, NoReturn

from ase import Atoms
from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from models.datasets import DataError
from models.reference.base import ReferenceCalculator, charge_and_multiplicity

Program = Literal["vasp", "cp2k", "espresso", "orca"]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class VaspSettings(_Settings):
    """What goes into INCAR, and which POTCAR is meant; the file itself needs a licence of its own."""

    incar: dict[str, JsonValue] = Field({}, description="tags, over those of a single point with forces")
    potcar: dict[str, str] = Field({}, description="by element, as Na_pv; else the element's own name")
    electrons: dict[str, float] = Field(
        {}, description="by element: ZVAL of its POTCAR, which only a charged structure needs (NELECT)"
    )


class Cp2kSettings(_Settings):
    """What a Quickstep calculation needs; `input` has the last word on every keyword."""

    functional: str = "PBE"
    basis_set: str = "DZVP-MOLOPT-SR-GTH"
    potential: str = "GTH-PBE"
    cutoff: float = Field(600.0, gt=0, description="of the plane waves, Ry; sodium needs 600")
    input: dict[str, JsonValue] = Field(
        {}, description="sections as dictionaries, keywords as values; '_' is the parameter of a section"
    )


class EspressoSettings(_Settings):
    """What pw.x needs."""

    pseudopotentials: dict[str, str] = Field({}, description="by element: the name of the UPF file")
    input_data: dict[str, JsonValue] = Field(
        {"ecutwfc": 80.0, "ecutrho": 640.0, "conv_thr": 1.0e-9}, description="namelist entries, as ecutwfc"
    )


class OrcaSettings(_Settings):
    """What ORCA needs."""

    simple_input: str = Field("", description="what follows '!', as 'wB97M-D3BJ def2-TZVPPD TightSCF'")
    blocks: str = Field("", description="blocks, as '%pal nprocs 8 end'")


class External(ReferenceCalculator):
    """A person's cluster: structures and inputs are written out, and labels are waited for.

    `level_of_theory` is a person's word for all that decides the labels; whatever comes back is taken to
    be at that level, unless it says something else.
    """

    kind: Literal["external"] = "external"
    level_of_theory: str = Field(min_length=1)
    inputs: tuple[Program, ...] = Field((), description="programs for which inputs are made ready")
    vasp: VaspSettings = VaspSettings()
    cp2k: Cp2kSettings = Cp2kSettings()
    espresso: EspressoSettings = EspressoSettings()
    orca: OrcaSettings = OrcaSettings()
    k_spacing: float = Field(
        0.3, gt=0, description="largest distance of k-points in periodic structures, 1/Å with 2π"
    )
    vacuum: float = Field(7.5, gt=0, description="around molecules in programs with a box, Å")
    poll_seconds: float = Field(10.0, gt=0, description="how often results are looked for")
    patience_hours: float | None = Field(
        None, gt=0, description="what has not come by then has failed; none: it is waited for"
    )

    @model_validator(mode="after")
    def _complete(self) -> "External":
        if "orca" in self.inputs and not self.orca.simple_input.strip():
            raise ValueError("orca.simple_input is empty; give the line after '!', as 'PBE0 def2-TZVP'")
        return self

    def version(self) -> str:
        """Nobody here knows it."""
        return ""

    def settings(self) -> dict[str, JsonValue]:
        """Nothing: the level of theory says it all, and inputs are a proposal that a cluster may change."""
        return {}

    def suit(self, atoms: Atoms) -> None:
        """Raise DataError where one of the inputs cannot be written for `atoms`."""
        charge, _ = charge_and_multiplicity(atoms)
        present = sorted(set(atoms.get_chemical_symbols()))
        if atoms.pbc.any() and atoms.cell.rank < 3:
            raise DataError("is periodic, but its cell has fewer than three vectors")
        if "orca" in self.inputs and atoms.pbc.any():
            raise DataError("is periodic, which ORCA cannot compute; remove orca from inputs")
        if "espresso" in self.inputs:
            _has_all(present, self.espresso.pseudopotentials, "espresso.pseudopotentials")
        if "vasp" in self.inputs and charge:
            _has_all(present, self.vasp.electrons, "vasp.electrons, since it is charged,")

    def label(self, atoms: Atoms, work: Path) -> NoReturn:
        """Never labels by itself; `tasks.external_labels.obtain` asks for labels and waits."""
        raise TypeError("external labels are not computed here; they are asked for and waited for")


def _has_all(elements: Sequence[str], given: Collection[str], where: str) -> None:
    if missing := [element for element in elements if element not in given]:
        raise DataError(f"{where} has no entry for {', '.join(missing)}; add it")
