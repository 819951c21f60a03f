"""Ready-made inputs of single points with forces: VASP, CP2K, Quantum ESPRESSO, ORCA.

Molecules get a box in programs that need one. Charge and multiplicity are those of the structure (see
`models.reference.base.charge_and_multiplicity`).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io import write
from ase.io.orca import write_orca

from models.reference.base import charge_and_multiplicity
from models.reference.external import External, Program

_INCAR = {"PREC": "Accurate", "ENCUT": 520, "EDIFF": 1e-6, "ISMEAR": 0, "SIGMA": 0.05, "NELM": 120,
          "IBRION": -1, "NSW": 0, "LREAL": False, "LWAVE": False, "LCHARG": False}  # fmt: skip
_POTCAR = """POTCAR is not here: it comes under VASP's licence. Put it together in this order:

    cat {files} > POTCAR
"""


@dataclass(frozen=True, kw_only=True)
class _Task:
    """One structure as a program computes it.

    Attributes:
        atoms: periodic in three directions, or a molecule.
        boxed: the same; a molecule is in the middle of a box.
        mesh: k-points along the three vectors, Γ among them.
        unpaired: electrons; None: the calculation finds out, from the initial moments.
    """

    atoms: Atoms
    boxed: Atoms
    mesh: tuple[int, int, int]
    charge: int
    multiplicity: int
    unpaired: int | None
    calculator: External

    @property
    def polarised(self) -> bool:
        """Whether spin up and down may differ."""
        return self.unpaired is None or self.unpaired > 0


def write_inputs(calculator: External, atoms: Atoms, folder: Path) -> None:
    """Write the inputs of every program that `calculator` names, each in a folder of its own."""
    charge, multiplicity = charge_and_multiplicity(atoms)
    plain = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=bool(atoms.pbc.any()))
    # A crystal of which nobody said a multiplicity may choose its moment; all others have the one given.
    free = bool(atoms.pbc.any() and "multiplicity" not in atoms.info)
    moments = atoms.get_initial_magnetic_moments()
    if moments.any() and (free or multiplicity > 1):
        plain.set_initial_magnetic_moments(moments)
    task = _Task(
        atoms=plain,
        boxed=plain if atoms.pbc.any() else boxed(plain, calculator.vacuum),
        mesh=mesh(plain, calculator.k_spacing),
        charge=charge,
        multiplicity=multiplicity,
        unpaired=None if free and moments.any() else multiplicity - 1,
        calculator=calculator,
    )
    for program in calculator.inputs:
        target = folder / program
        target.mkdir(parents=True, exist_ok=True)
        _WRITERS[program](task, target)


def boxed(molecule: Atoms, vacuum: float) -> Atoms:
    """A molecule in the middle of a box with `vacuum` (Å) on all sides, at least twice as long as itself."""
    extent = np.ptp(molecule.positions, axis=0)
    box = molecule.copy()
    box.set_cell(np.maximum(extent + 2 * vacuum, 2 * extent + vacuum))
    box.pbc = True
    box.center()
    return box


def mesh(atoms: Atoms, spacing: float) -> tuple[int, int, int]:
    """How many k-points along each vector are at most `spacing` (1/Å, with 2π) apart; 1 for molecules."""
    if not atoms.pbc.any():
        return (1, 1, 1)
    lengths = 2 * np.pi * np.linalg.norm(atoms.cell.reciprocal().array, axis=1)
    a, b, c = (max(1, int(np.ceil(length / spacing - 1e-9))) for length in lengths)
    return (a, b, c)


def _vasp(task: _Task, folder: Path) -> None:
    # Imported where it is used: pymatgen takes seconds, and most campaigns never need it.
    from pymatgen.io.vasp.inputs import Incar, Kpoints

    settings = task.calculator.vasp
    # POSCAR wants the atoms of an element in one block.
    atoms = task.boxed[np.argsort(task.boxed.numbers, kind="stable")]
    tags: dict[str, Any] = {**_INCAR, **settings.incar}
    if task.charge:
        electrons = sum(settings.electrons[symbol] for symbol in atoms.get_chemical_symbols())
        tags["NELECT"] = electrons - task.charge
    if task.polarised:
        tags |= {"ISPIN": 2} | ({} if task.unpaired is None else {"NUPDOWN": task.unpaired})
    if (moments := atoms.get_initial_magnetic_moments()).any():
        tags["MAGMOM"] = moments.tolist()
    Incar(tags).write_file(folder / "INCAR")
    Kpoints.gamma_automatic(task.mesh).write_file(folder / "KPOINTS")
    write(folder / "POSCAR", atoms, format="vasp", direct=True)
    elements = list(dict.fromkeys(atoms.get_chemical_symbols()))
    files = " ".join(f"{settings.potcar.get(element, element)}/POTCAR" for element in elements)
    (folder / "POTCAR.txt").write_text(_POTCAR.format(files=files), encoding="utf-8")


def _cp2k(task: _Task, folder: Path) -> None:
    settings, atoms = task.calculator.cp2k, task.boxed
    periodic = bool(task.atoms.pbc.any())
    cell = {
        name: " ".join(f"{x:.10f}" for x in row) for name, row in zip("ABC", atoms.cell.array, strict=True)
    }
    dft: dict[str, Any] = {
        "BASIS_SET_FILE_NAME": "BASIS_MOLOPT",
        "POTENTIAL_FILE_NAME": "GTH_POTENTIALS",
        "CHARGE": task.charge,
        "MULTIPLICITY": task.multiplicity,
        "UKS": task.polarised,
        "MGRID": {"CUTOFF": settings.cutoff, "REL_CUTOFF": 60},
        "QS": {"EPS_DEFAULT": 1e-12},
        "SCF": {"EPS_SCF": 1e-7, "MAX_SCF": 200},
        "XC": {"XC_FUNCTIONAL": {"_": settings.functional}},
    }
    if task.mesh != (1, 1, 1):
        # CP2K's Monkhorst-Pack meshes miss Γ where a number is even; Macdonald's can be shifted back to it.
        shifts = " ".join("0.0" if n % 2 else f"{0.5 / n:.6f}" for n in task.mesh)
        dft["KPOINTS"] = {"SCHEME": f"MACDONALD {' '.join(map(str, task.mesh))} {shifts}"}
    if not periodic:
        dft["POISSON"] = {"PERIODIC": "NONE", "PSOLVER": "MT"}
    kinds = [
        {"_": symbol, "BASIS_SET": settings.basis_set, "POTENTIAL": settings.potential}
        for symbol in sorted(set(atoms.get_chemical_symbols()))
    ]
    places = [
        f"{symbol} {x:.10f} {y:.10f} {z:.10f}"
        for symbol, (x, y, z) in zip(atoms.get_chemical_symbols(), atoms.positions, strict=True)
    ]
    sections = {
        "GLOBAL": {"PROJECT": "temper", "RUN_TYPE": "ENERGY_FORCE", "PRINT_LEVEL": "MEDIUM"},
        "FORCE_EVAL": {
            "METHOD": "Quickstep",
            **({"STRESS_TENSOR": "ANALYTICAL"} if periodic else {}),
            "DFT": dft,
            "SUBSYS": {
                "CELL": {**cell, "PERIODIC": "XYZ" if periodic else "NONE"},
                "COORD": {"": places},
                "KIND": kinds,
            },
            "PRINT": {"FORCES": {"_": "ON"}, **({"STRESS_TENSOR": {"_": "ON"}} if periodic else {})},
        },
    }
    lines = _sections(_merged(sections, settings.input))
    (folder / "cp2k.inp").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _sections(content: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """The lines of CP2K sections: dictionaries are sections, lists are repeated, '' has whole lines."""
    for name, value in content.items():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, Mapping):
                yield f"{indent}&{name} {item.get('_', '')}".rstrip()
                yield from _sections({k: v for k, v in item.items() if k != "_"}, indent + "  ")
                yield f"{indent}&END {name}"
            else:
                yield f"{indent}{name} {item}".rstrip() if name else f"{indent}{item}"


def _merged(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Sections in which what a person says replaces what we say."""
    merged = dict(ours)
    for name, value in theirs.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = _merged(merged[name], value) if both else value
    return merged


def _espresso(task: _Task, folder: Path) -> None:
    settings = task.calculator.espresso
    data: dict[str, Any] = {"calculation": "scf", "tprnfor": True, "tstress": bool(task.atoms.pbc.any())}
    data |= {"tot_charge": task.charge} if task.charge else {}
    if task.polarised:
        data |= {"nspin": 2} | ({} if task.unpaired is None else {"tot_magnetization": task.unpaired})
    write(
        folder / "espresso.pwi",
        task.boxed,
        format="espresso-in",
        input_data={**data, **settings.input_data},
        pseudopotentials=settings.pseudopotentials,
        kpts=None if task.mesh == (1, 1, 1) else task.mesh,
    )


def _orca(task: _Task, folder: Path) -> None:
    settings = task.calculator.orca
    asks_for_forces = "engrad" in settings.simple_input.lower().split()
    parameters = {
        "orcasimpleinput": settings.simple_input + ("" if asks_for_forces else " EnGrad"),
        "orcablocks": settings.blocks,
        "charge": task.charge,
        "mult": task.multiplicity,
    }
    write_orca(folder / "orca.inp", task.atoms, parameters)


_WRITERS: Mapping[Program, Callable[[_Task, Path], None]] = {
    "vasp": _vasp,
    "cp2k": _cp2k,
    "espresso": _espresso,
    "orca": _orca,
}
