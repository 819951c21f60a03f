"""The gradients of a batch, in parts where it does not fit into memory."""

import logging
from collections.abc import Sequence
from functools import partial

import torch

from models import losses
from models.graphs import Batch, Graph, batches, collate
from models.memory import fitting
from models.potentials import Network
from models.training_state import TrainingState

log = logging.getLogger(__name__)


def gradients(
    network: Network,
    graphs: Sequence[Graph],
    e0s: torch.Tensor,
    weights: Sequence[losses.Weights],
    terms: Sequence[losses.Term],
    state: TrainingState,
) -> torch.Tensor:
    """The loss of a batch, detached; its gradients are those of the parameters of `network` and `terms`.

    A batch with more than `state.edges_at_once` edges is computed in parts, whose gradients add up to those
    of the whole. Where memory runs out, that number becomes half of what did not fit, and the batch is begun
    anew. `weights` has one entry per head. Raises DoesNotFit where there is no memory for a single structure.
    """
    sizes = [g.n_edges for g in graphs]
    drawn = [term.state_dict() for term in terms]
    while True:
        parts = list(batches(range(len(graphs)), sizes, state.edges_at_once))
        chosen = [[graphs[i] for i in part] for part in parts]
        added_up = partial(_added_up, network, chosen, e0s, weights, terms)
        loss = fitting(added_up, max(map(len, parts)))
        if loss is not None:
            return loss
        largest = max(sum(sizes[i] for i in part) for part in parts if len(part) > 1)
        state.edges_at_once = largest / 2
        log.warning("memory ran out with %d edges at once: from here on up to %d", largest, largest // 2)
        for term, before in zip(terms, drawn, strict=True):
            term.load_state_dict(before)  # what was drawn at random is drawn again
        for parameter in (p for module in (network, *terms) for p in module.parameters()):
            parameter.grad = None


def _added_up(
    network: Network,
    parts: Sequence[Sequence[Graph]],
    e0s: torch.Tensor,
    weights: Sequence[losses.Weights],
    terms: Sequence[losses.Term],
) -> torch.Tensor:
    like = next(network.parameters())
    whole = None
    if len(parts) > 1:  # its labels are counted, on the CPU
        whole = collate([graph for part in parts for graph in part], e0s.shape[1], like.dtype)
    found = []
    for part in parts:
        batch = collate(part, e0s.shape[1], like.dtype, like.device)
        loss = _loss(network, batch, e0s, weights, terms, whole)
        loss.backward()
        found.append(loss.detach())
    return torch.stack(found).sum() if whole is not None else found[0]


def _loss(
    network: Network,
    batch: Batch,
    e0s: torch.Tensor,
    weights: Sequence[losses.Weights],
    terms: Sequence[losses.Term],
    whole: Batch | None,
) -> torch.Tensor:
    """The loss of a batch, or what it adds to that of the `whole` that it is a part of."""
    with_stress = any(w.stress for w in weights) and bool(batch["labels_stress"].isfinite().any())
    output = network(batch, training=True, compute_force=True, compute_stress=with_stress)
    loss = losses.huber(output, batch, e0s, weights, whole)
    for term in terms:
        share = 1.0 if whole is None else term.count(batch) / max(term.count(whole), 1)
        loss = loss + share * term(network, batch, output)
    return loss
