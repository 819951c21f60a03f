"""Errors of a network on labelled graphs while it trains, and the scores that compare evaluations."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch

from models.graphs import Graph, batches, collate, e0_sum, edge_counts
from models.kernels import for_inference
from models.memory import in_halves
from models.potentials import Network

Rule = Literal["target", "retention", "pareto"]

_ERRORS = ("forces_mae", "energy_per_atom_mae")
_MAGNETIC = {"magmoms_mae": "magmoms", "magnetic_forces_mae": "magnetic_forces"}
_MAX_EDGES = 8000


def mean_errors(network: Network, graphs: Sequence[Graph], e0s: torch.Tensor) -> dict[str, float]:
    """Mean absolute errors over labelled entries: `forces_mae` meV/Å, `energy_per_atom_mae` meV/atom.

    With moments also `magmoms_mae`, 10⁻³ μB, of magnitudes, and `magnetic_forces_mae`, meV/μB. What has no
    labels is left out; a prediction that is not finite makes its error NaN.
    """
    network = for_inference(network)
    weights = next(network.parameters())
    differences: dict[str, list[torch.Tensor]] = {name: [] for name in (*_ERRORS, *_MAGNETIC)}

    def off(run: Sequence[int]) -> dict[str, torch.Tensor]:
        batch = collate([graphs[i] for i in run], e0s.shape[1], weights.dtype, weights.device)
        output = network(batch, compute_force=True)
        energy = output["interaction_energy"].detach().double() + e0_sum(batch, e0s)
        per_atom = (energy - batch["labels_energy"]) / batch["n_atoms"]
        forces = output["forces"].detach().double() - batch["labels_forces"]
        found = {
            "forces_mae": forces[batch["labels_forces"].isfinite()],
            "energy_per_atom_mae": per_atom[batch["labels_energy"].isfinite()],
        }
        for name, key in _MAGNETIC.items():
            if key in output:
                labels = batch[f"labels_{key}"]
                found[name] = (output[key].detach() - labels).double()[labels.isfinite()]
        return found

    for run in batches(range(len(graphs)), edge_counts(graphs), _MAX_EDGES):
        for found in in_halves(run, off):
            for name, part in found.items():
                differences[name].append(part)
    joined = {name: torch.cat(parts) for name, parts in differences.items() if parts}
    return {name: 1000.0 * float(d.abs().mean()) for name, d in joined.items() if len(d)}


def scores(row: Mapping[str, Any], sets: Mapping[str, str], rule: Rule) -> dict[str, float]:
    """What one evaluation is judged by, lower is better: the score named `rule` decides.

    `row` holds the errors of `mean_errors`, prefixed with their validation set; `sets` maps "target"
    and "retention", where the rule needs it, to the name of such a set. A set's score is the sum of
    its errors, meV/Å plus meV/atom.
    """
    found = {
        meaning: float(sum(row[key] for error in _ERRORS if (key := f"{name}_{error}") in row))
        for meaning, name in sets.items()
    }
    return found | {"pareto": sum(found.values())} if rule == "pareto" else found
