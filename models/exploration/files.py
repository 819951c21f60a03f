"""From files to the pool: every explorer in turn, on one potential."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ase import Atoms

from models.datasets import DataError, check_elements, read_structures, write_structures
from models.exploration.base import Explorer, Scene, Told, bare
from models.potentials import load
from models.uncertainty.files import load as load_uncertainty


def explore_files(
    explorers: Sequence[Explorer],
    checkpoints: Sequence[Path],
    uncertainty: Path | None,
    starts: Path,
    seed: int,
    work: Path,
    report: Told | None = None,
) -> Path:
    """The file of all structures that the explorers find, `pool.extxyz` in `work`.

    `checkpoints` are the specialist and, where its `uncertainty` needs them, the committee's other members.
    Labels of the starts are left behind. Every frame has the info `explorer` and `walker`, a name that only
    the frames of one trajectory have in common; where they apply `temperature` (K), `pressure` (GPa),
    `time_fs`, `failure` (what befell an exploding walker after this, its last sound frame) and `stopped` (why
    a walker that is sound went no further); with an uncertainty the info `uncertainty`, eV/Å, of the least
    certain atom, and the array `uncertainty` (N,) of all. What is found is written down part by part in
    `work`: a killed call goes on from there, and gives the same pool.

    Raises DataError where the starts cannot be read, have an element that the potential does not know, or
    none has two atoms, and where nothing at all was found.
    """
    usable = [bare(frame) for frame in read_structures(starts) if len(frame) > 1]
    if not usable:
        raise DataError(f"{starts}: every start is a single atom; give structures of two atoms and more")
    potential = load(checkpoints[0])
    check_elements(usable, potential.symbols, str(starts), checkpoints[0].name)
    estimator = None if uncertainty is None else load_uncertainty(uncertainty, checkpoints)
    pool: list[Atoms] = []
    for index, (name, explorer) in enumerate(zip(_names(explorers), explorers, strict=True)):
        scene = Scene(
            name=name,
            potential=potential,
            starts=usable,
            uncertainty=estimator,
            seed=(seed, index),
            work=work,
            report=report,
        )
        pool += explorer.explore(scene)
    if not pool:
        raise DataError(
            f"{starts}: {', '.join(_names(explorers))} found no structure; give other starts or explorers"
        )
    for frame in pool:
        frame.arrays.pop("momenta", None)
    path = work / "pool.extxyz"
    write_structures(path, pool)
    return path


def _names(explorers: Sequence[Explorer]) -> list[str]:
    """What the explorers are called: by their kind, and by number from the second of a kind on."""
    names = []
    seen: Counter[str] = Counter()
    for explorer in explorers:
        seen[explorer.kind] += 1
        number = seen[explorer.kind]
        name = explorer.kind.replace("_", "-")
        names.append(name if number == 1 else f"{name}-{number}")
    return names
