"""CP2K's output, which ASE does not read: the geometry of a single point, and what was computed for it."""

import re
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress

_NUMBER = r"[-+]?\d+\.\d+(?:[eE][-+]?\d+)?"
_THREE = rf"({_NUMBER})\s+({_NUMBER})\s+({_NUMBER})"
_VECTOR = re.compile(rf"^ CELL\| Vector [abc] \[angstrom\]:\s+{_THREE}", re.M)
_ATOM = re.compile(rf"^\s+\d+\s+\d+\s+([A-Z][a-z]?)\s+\d+\s+{_THREE}", re.M)
_ENERGY = re.compile(rf"ENERGY\| Total FORCE_EVAL.*\[(?:a\.u\.|hartree)\]:?\s+({_NUMBER})")
# Until 2023, and since.
_FORCE = re.compile(rf"^(?:\s+\d+\s+\d+\s+[A-Z][a-z]?|\s*FORCES\|\s+\d+)\s+{_THREE}", re.M)
_STRESS = re.compile(rf"STRESS\|.*stress tensor \[(\w+)\]\n.*\n(?: STRESS\|\s+[xyz]\s+{_THREE}\n){{3}}")
_PRESSURES = {"GPa": units.GPa, "kbar": 0.1 * units.GPa, "bar": 1e-4 * units.GPa}


def read_cp2k(path: Path) -> list[Atoms]:
    """The one image in an output file, in eV, eV/Å and eV/Å³, with a calculator that holds what was found.

    Raises ValueError where there is no geometry.
    """
    text = path.read_text(encoding="utf-8", errors="replace")
    geometry, _, rest = text.partition("ATOMIC COORDINATES IN ANGSTROM")
    table = re.split(r"\n\n\n", rest, maxsplit=1)[0]
    atoms = [(found[1], [float(x) for x in found.groups()[1:]]) for found in _ATOM.finditer(table)]
    vectors = np.array([found.groups() for found in _VECTOR.finditer(geometry)], dtype=float)
    if not atoms or len(vectors) < 3:
        raise ValueError("there is no geometry")
    alone = re.search(r"CELL\| Periodicity\s+NONE", geometry) is not None
    symbols, positions = zip(*atoms, strict=True)
    image = Atoms(symbols, positions=positions, cell=vectors[:3], pbc=not alone)
    results: dict[str, float | np.ndarray] = {}
    if found := _ENERGY.search(rest):
        results["energy"] = float(found[1]) * units.Hartree
    forces = re.split(r"ATOMIC FORCES in|FORCES\| Atomic forces", rest, maxsplit=1)[-1]
    rows = [found.groups() for found in _FORCE.finditer(forces)][: len(image)]
    if forces is not rest and len(rows) == len(image):
        results["forces"] = np.array(rows, dtype=float) * (units.Hartree / units.Bohr)
    if (found := _STRESS.search(rest)) and found[1] in _PRESSURES and not alone:
        rows = re.findall(_THREE, found[0])
        # CP2K counts compression as positive.
        tensor = -np.array(rows, dtype=float) * _PRESSURES[found[1]]
        results["stress"] = full_3x3_to_voigt_6_stress(tensor)
    image.calc = SinglePointCalculator(image, **results)
    return [image]
