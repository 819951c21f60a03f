"""The training objective: Huber losses on energies per atom, forces, stress and moments, weighted by head."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch.nn.functional import huber_loss

from models.graphs import Batch, e0_sum


class Weights(BaseModel):
    """Weights of one head's terms (arXiv 2606.12704, App. A.1); a term without labels counts for nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    energy: float = Field(10.0, ge=0)
    forces: float = Field(10.0, ge=0)
    stress: float = Field(0.0, ge=0)
    magmoms: float = Field(1.0, ge=0, description="of the magnitudes of magnetic moments")
    magnetic_forces: float = Field(1.0, ge=0)


TARGET = Weights(stress=1.0)
REPLAY = Weights(energy=1.0, stress=1.0)
HUBER_DELTA = 0.01  # eV, eV/Å, eV/Å³, μB, eV/μB
_LABELS = ("energy", "forces", "stress", "magmoms", "magnetic_forces")


class Term(torch.nn.Module):
    """One more part of a loss, which may read what else of the teacher stands in the batch.

    What it needs beside the network, such as a projection of features, is trained with it and not kept.
    """

    def forward(self, network: Any, batch: Batch, output: dict[str, torch.Tensor]) -> torch.Tensor:
        """The term, a scalar; `output` is what `network` said of `batch`."""
        raise NotImplementedError

    def count(self, batch: Batch) -> int:
        """How many the term is a mean over: what the parts of a batch that is computed in parts weigh."""
        return len(batch["batch"])

    def judged(self, errors: Mapping[str, float]) -> None:
        """Take notice of an evaluation: `forces_mae` meV/Å and `energy_per_atom_mae` meV/atom."""


def huber(
    output: dict[str, torch.Tensor],
    batch: Batch,
    e0s: torch.Tensor,
    weights: Sequence[Weights],
    whole: Batch | None = None,
) -> torch.Tensor:
    """Scalar loss of one batch, or what it adds to that of the `whole` batch that it is a part of.

    Energies enter per atom and relative to the E0s (heads × elements, eV), so that float32 is
    enough. Unlabelled (NaN) entries are left out. `weights` has one entry per head.
    """
    n = {name: None if whole is None else n_labelled(whole[f"labels_{name}"]) for name in _LABELS}
    forces = output["forces"]
    terms = [[getattr(w, name) for name in _LABELS] for w in weights]
    table = torch.tensor(terms).to(forces)
    per_structure = table[batch["head"]]
    target = ((batch["labels_energy"] - e0_sum(batch, e0s)) / batch["n_atoms"]).to(table.dtype)
    energy = output["interaction_energy"] / batch["n_atoms"]
    total = huber_mean(energy, target, per_structure[:, 0], n["energy"])
    total = total + huber_mean(
        forces, batch["labels_forces"], per_structure[batch["batch"], 1, None], n["forces"]
    )
    if output.get("stress") is not None:
        total = total + huber_mean(
            output["stress"], batch["labels_stress"], per_structure[:, 2, None, None], n["stress"]
        )
    if "magmoms" in output:
        weight = per_structure[batch["batch"]]
        total = total + huber_mean(output["magmoms"], batch["labels_magmoms"], weight[:, 3], n["magmoms"])
        labels = batch["labels_magnetic_forces"]
        total = total + huber_mean(
            output["magnetic_forces"], labels, weight[:, 4, None], n["magnetic_forces"]
        )
    return total


def n_labelled(labels: torch.Tensor) -> int:
    """The number of entries that are labelled."""
    return int(torch.isfinite(labels).sum())


def huber_mean(
    predicted: torch.Tensor,
    labels: torch.Tensor,
    weights: torch.Tensor | None = None,
    n: int | None = None,
) -> torch.Tensor:
    """Mean Huber loss of the labelled entries, each times its weight; `n`: of so many, these among them."""
    labelled = torch.isfinite(labels)
    if not labelled.any():
        return predicted.sum() * 0.0
    terms = huber_loss(predicted[labelled], labels[labelled], reduction="none", delta=HUBER_DELTA)
    if weights is not None:
        terms = weights.expand_as(predicted)[labelled] * terms
    return terms.mean() if n is None else terms.sum() / n
