"""GFN1- and GFN2-xTB labels through tblite (Bannwarth et al., WIREs Comput. Mol. Sci. 11, e1493)."""

import os
from typing import Literal

from ase import Atoms
from ase.calculators.calculator import Calculator

Method = Literal["GFN1-xTB", "GFN2-xTB"]

# Unpaired electrons of the free atoms, for the isolated-atom energies (E0s).
GROUND_STATE_MULTIPLICITY = {
    "H": 2, "Li": 2, "C": 3, "N": 4, "O": 3, "F": 2, "Na": 2, "P": 4, "S": 3, "Cl": 2, "Br": 2,
}  # fmt: skip


def calculator(method: Method, *, charge: int = 0, multiplicity: int = 1) -> Calculator:
    """An ASE calculator for one structure; energies in eV, forces in eV/Å.

    Charge and multiplicity are passed here because tblite does not read `atoms.info`.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from tblite.ase import TBLite

    return TBLite(method=method, charge=charge, multiplicity=multiplicity, accuracy=0.1, verbosity=0)


def isolated_atom(symbol: str, method: Method) -> Atoms:
    """The neutral free atom in its ground-state multiplicity, labelled with its energy (eV)."""
    atom = Atoms(symbol, positions=[[0.0, 0.0, 0.0]])
    multiplicity = GROUND_STATE_MULTIPLICITY[symbol]
    atom.calc = calculator(method, multiplicity=multiplicity)
    labelled = labelled_copy(atom)
    labelled.info |= {"config_type": "IsolatedAtom", "multiplicity": multiplicity}
    return labelled


def labelled_copy(atoms: Atoms) -> Atoms:
    """`atoms` without its calculator, with `REF_energy` (eV) and `REF_forces` (eV/Å) from it.

    Where it is periodic also `REF_stress` (eV/Å³).
    """
    labelled = atoms.copy()
    labelled.info["REF_energy"] = float(atoms.get_potential_energy())
    labelled.arrays["REF_forces"] = atoms.get_forces(apply_constraint=False)
    if atoms.pbc.all():
        labelled.info["REF_stress"] = atoms.get_stress()
    labelled.arrays.pop("momenta", None)
    return labelled


def relabelled(frame: Atoms, method: Method) -> Atoms:
    """`frame` labelled afresh at another level of theory, charge and multiplicity kept."""
    fresh = frame.copy()
    fresh.calc = calculator(
        method, charge=frame.info.get("charge", 0), multiplicity=frame.info.get("multiplicity", 1)
    )
    return labelled_copy(fresh)
