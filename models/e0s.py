"""Isolated-atom energies (E0s) of the target level, refitted from the foundation's residuals.

arXiv 2606.12704, eq. 6: the shift ΔE0 minimises Σ (E_ref − E_model − Σ_Z n_Z ΔE0_Z)².
"""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols
from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.datasets import DataError, read_structures
from models.graphs import graphs, predict
from models.potentials import Potential, load

log = logging.getLogger(__name__)

_RANK_TOLERANCE = 1e-8
_MISMATCH = 500.0  # meV/atom of energy error before training that tell of wrong E0s (MACE's guide)


class E0Policy(BaseModel):
    """Where the E0s of the target level come from.

    `isolated_atoms` takes the labels' frames with config_type=IsolatedAtom, `explicit` the `energies`
    given here, `estimated` fits the foundation's residuals, `foundation` keeps its E0s. `average` fits the
    total energies themselves, as if atoms did not bind: it is there only to be compared against.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    policy: Literal["estimated", "isolated_atoms", "explicit", "foundation", "average"] = Field(
        "estimated", description="'average' is only to be compared against: models with it are worse"
    )
    energies: dict[str, float] = Field(
        {}, description="for 'explicit': energies of isolated atoms at the labels' level, eV, by symbol"
    )
    ridge: float = Field(
        1e-12,
        gt=0,
        description="pull towards the foundation's E0s ('estimated') or zero ('average'), relative to the "
        "largest singular value squared",
    )

    @model_validator(mode="after")
    def _energies_where_explicit(self) -> "E0Policy":
        if unknown := [symbol for symbol in self.energies if symbol not in atomic_numbers]:
            raise ValueError(f"energies: {', '.join(unknown)}: no such element; use chemical symbols")
        if not all(map(np.isfinite, self.energies.values())):
            raise ValueError("energies: give every one as a finite number of eV")
        if bool(self.energies) != (self.policy == "explicit"):
            raise ValueError("energies: go with the policy 'explicit' and with no other")
        return self


@dataclass(frozen=True, kw_only=True)
class E0Fit:
    """E0s (eV) by atomic number, and how well the data determine them.

    `null_space` lists, as formulas, the combinations of elements that the data leave free; `warnings`
    what is wrong with these E0s.
    """

    policy: str
    e0s: dict[int, float]
    shifts: dict[int, float]
    rank: int
    n_elements: int
    condition: float
    null_space: list[str]
    residual_before: float
    residual_after: float
    warnings: list[str] = field(default_factory=list)

    @property
    def determined(self) -> bool:
        """Whether the data fix every element's shift."""
        return self.rank == self.n_elements


def refit(
    foundation: Potential,
    frames: Sequence[Atoms],
    isolated: Sequence[Atoms],
    policy: E0Policy,
    others: Sequence[Atoms] = (),
) -> E0Fit:
    """E0s of the target level by `policy`, for every element of the foundation.

    `others` are structures that the E0s will be used for; a warning says which of them they do not fit.
    Elements that are absent from the data and were not given keep the foundation's E0. `residual_before` and
    `residual_after` are RMS errors of the total energies, meV/atom, with the foundation's E0s and
    with these. Raises DataError where isolated atoms or explicit energies are asked for and one is
    missing.
    """
    old = foundation.e0s()
    elements = sorted({int(z) for frame in frames for z in frame.numbers})
    counts = count_elements(frames, elements)
    energies = np.array([frame.info["REF_energy"] for frame in frames])
    residuals = energies - np.array([p.energy for p in predict(foundation, graphs(frames, foundation))])
    singular = np.linalg.svd(counts, compute_uv=False)
    rank = int((singular > _RANK_TOLERANCE * singular[0]).sum())
    new = _asked_for(policy, counts, energies, residuals, elements, old, isolated)
    shifts = {z: new[z] - old[z] for z in elements}
    n_atoms = counts.sum(axis=1)
    after = _rms((residuals - counts @ np.array([shifts[z] for z in elements])) / n_atoms)
    fit = E0Fit(
        policy=policy.policy,
        e0s={z: new.get(z, energy) for z, energy in old.items()},
        shifts=shifts,
        rank=rank,
        n_elements=len(elements),
        condition=float(singular[0] / singular[rank - 1]),
        null_space=_null_space(counts, rank, elements),
        residual_before=_rms(residuals / n_atoms),
        residual_after=after,
        warnings=_warnings(policy.policy, after, _outside(frames, others)),
    )
    for warning in fit.warnings:
        log.warning("E0s: %s", warning)
    return fit


def _outside(frames: Sequence[Atoms], others: Sequence[Atoms]) -> list[str]:
    """Formulas of `others` whose compositions are no combination of those of `frames`."""
    elements = sorted({int(z) for frame in (*frames, *others) for z in frame.numbers})
    _, singular, right = np.linalg.svd(count_elements(frames, elements), full_matrices=False)
    span = right[singular > _RANK_TOLERANCE * singular[0]]
    asked = count_elements(others, elements).reshape(len(others), len(elements))
    rest = np.abs(asked - asked @ span.T @ span).max(axis=1, initial=0.0)
    return sorted(
        {frame.get_chemical_formula() for frame, left in zip(others, rest, strict=True) if left > 1e-6}
    )


def _warnings(policy: str, residual: float, outside: Sequence[str]) -> list[str]:
    found = []
    if policy in ("estimated", "average") and outside:
        found.append(
            f"the training structures do not fix the energies of {', '.join(outside)}: no combination of "
            "their compositions gives these; add labels of more compositions, split by another key, or give "
            "the energies of isolated atoms ('isolated_atoms', 'explicit')"
        )
    if policy == "average":
        found.append(
            "the policy 'average' puts the atoms' binding into the E0s; it is only to be compared against, "
            "so use 'estimated' or 'isolated_atoms' for a model to be used"
        )
    if residual > _MISMATCH:
        found.append(
            f"energies are {residual:.0f} meV/atom off before training: the E0s do not belong to the "
            "labels; use the policy 'estimated' or check the labels' units"
        )
    return found


def _asked_for(
    policy: E0Policy,
    counts: np.ndarray,
    energies: np.ndarray,
    residuals: np.ndarray,
    elements: Sequence[int],
    old: Mapping[int, float],
    isolated: Sequence[Atoms],
) -> Mapping[int, float]:
    if policy.policy == "foundation":
        return old
    if policy.policy == "average":
        return dict(zip(elements, map(float, ridge_fit(counts, energies, policy.ridge)), strict=True))
    if policy.policy == "estimated":
        shifts = ridge_fit(counts, residuals, policy.ridge)
        return {z: old[z] + float(shift) for z, shift in zip(elements, shifts, strict=True)}
    return given_energies(policy, isolated, elements)


def given_energies(policy: E0Policy, isolated: Sequence[Atoms], elements: Iterable[int]) -> dict[int, float]:
    """E0s (eV) by atomic number of the policies `isolated_atoms` and `explicit`.

    Raises DataError naming those of `elements` that have none.
    """
    if policy.policy == "explicit":
        given = {atomic_numbers[symbol]: energy for symbol, energy in policy.energies.items()}
        lacking = "no energy for {} in energies"
    else:
        given = {int(a.numbers[0]): float(a.info["REF_energy"]) for a in isolated}
        lacking = "no frame with config_type=IsolatedAtom for {}"
    if missing := [chemical_symbols[z] for z in elements if z not in given]:
        raise DataError(f"e0s: {lacking.format(', '.join(missing))}; add it or use 'estimated'")
    return given


def ridge_fit(counts: np.ndarray, residuals: np.ndarray, ridge: float) -> np.ndarray:
    """Energies (Z,) eV per atom of each element that explain `residuals` (S,) eV.

    `counts` (S, Z) are the numbers of atoms. Tikhonov: what the data determine is fitted, what they
    leave free stays at zero. `ridge` is relative to the largest singular value squared.
    """
    left, singular, right = np.linalg.svd(counts, full_matrices=False)
    determined = singular > _RANK_TOLERANCE * singular[0]
    filtered = np.where(determined, singular / (singular**2 + ridge * singular[0] ** 2), 0.0)
    return np.asarray(right.T @ (filtered * (left.T @ residuals)))


def count_elements(frames: Sequence[Atoms], elements: Sequence[int]) -> np.ndarray:
    """Numbers of atoms (S, Z) of each element in each structure."""
    return np.array([[(frame.numbers == z).sum() for z in elements] for frame in frames], dtype=float)


def _null_space(counts: np.ndarray, rank: int, elements: Sequence[int]) -> list[str]:
    from scipy.linalg import null_space, qr

    if rank == len(elements):
        return []
    free = null_space(counts, rcond=_RANK_TOLERANCE)
    # Column-pivoted elimination turns the orthonormal basis into short, readable combinations.
    _, _, pivots = qr(free.T, pivoting=True)
    readable = free @ np.linalg.inv(free[pivots[: free.shape[1]]])
    return [
        " ".join(
            f"{value:+.3g} {chemical_symbols[z]}"
            for z, value in zip(elements, column, strict=True)
            if abs(value) > 1e-6
        )
        for column in readable.T
    ]


def _rms(per_atom: np.ndarray) -> float:
    return float(1000.0 * np.sqrt(np.mean(per_atom**2)))


def refit_file(
    foundation: Path,
    train: Path,
    isolated: Path | None,
    policy: E0Policy,
    work: Path,
    others: Path | None = None,
) -> tuple[Path, E0Fit]:
    """`refit` from files to the file `e0s.json`, whose E0s and shifts are keyed by chemical symbol."""
    atoms, further = ([] if path is None else read_structures(path) for path in (isolated, others))
    fit = refit(load(foundation), read_structures(train), atoms, policy, further)
    content = asdict(fit)
    for key in ("e0s", "shifts"):
        content[key] = {chemical_symbols[z]: energy for z, energy in content[key].items()}
    path = work / "e0s.json"
    path.write_text(json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False), encoding="utf-8")
    return path, fit


def read_e0s(path: Path) -> dict[int, float]:
    """The E0s (eV) by atomic number of a file that `refit_file` wrote."""
    return {
        atomic_numbers[symbol]: e for symbol, e in json.loads(path.read_text(encoding="utf-8"))["e0s"].items()
    }
