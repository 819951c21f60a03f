"""A network as one straight list of operations, for batches of the same atoms that come again and again.

A step of dynamics of a small system is more than a thousand operations on small tensors, and most of its time
goes into Python and into recording gradients. Both are the same in every step, so they are done once: the
operations of energy, forces and stress are written down and from then on only repeated.
"""

import copy
import math
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from operator import getitem
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from models import devices
from models.graphs import Batch
from models.kernels import for_inference, regular
from models.networks.ace import padded
from models.potentials import Potential, compiled

CALLS = 50  # before a batch is taken to come again: about as many as writing it down costs
LARGEST = 8000  # edges; in larger batches the operations themselves take the time
LIGHT = 16  # times as many, where edges are as light as in a regular form
KEPT = 8  # lists of operations, the latest used
ROOM = 1.08  # between numbers of edges that share a list

_FIXED = ("edge_index", "shifts", "unit_shifts", "cell", "species", "ptr", "head")
_MOVING = ("positions", "edge_index", "shifts", "unit_shifts", "cell")
_Operations = Callable[..., tuple[torch.Tensor, ...]]


def traced(potential: Potential) -> Potential:
    """The same potential for many calls on small systems: same numbers to rounding, in a third of the time.

    Its parameters are constants. One in TorchScript stays as it is, and one with magnetic moments, of which
    torch 2.13 cannot optimise the list; on a GPU it becomes TorchScript (`compiled`).
    """
    if potential.magnetic or isinstance(potential.network, Traced | torch.jit.ScriptModule):
        return potential
    if devices.chosen().type != "cpu":
        return compiled(potential)
    return replace(potential, network=Traced(potential.network))


class Traced(torch.nn.Module):
    """A network that writes its operations down once the same atoms have come `CALLS` times.

    Batches are filled up with edges longer than the cutoff, which change nothing, so that numbers of edges
    that are close to each other share one list of operations. Before and after, the operations are the same.
    Where all of a batch but its positions is the very same tensors as in the call before, it is not filled
    up anew. Where it is called it gives `interaction_energy`, `forces` and, where asked for, `stress`;
    everything else is the network's own.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        prepared = for_inference(copy.deepcopy(network).requires_grad_(False))
        # In a tuple, so that it is no child: it is prepared already, and not to be prepared at every call.
        self._prepared = (prepared, regular(prepared))
        self._cutoff = float(prepared.r_max)
        self._calls: Counter[Any] = Counter()
        self._lists: OrderedDict[Any, _Operations] = OrderedDict()
        self._latest: tuple[list[torch.Tensor], Batch, tuple[Any, ...]] | None = None

    def __getattr__(self, name: str) -> Any:
        # Without its interactions it is not taken for a MACE network, which could be prepared once more.
        if name.startswith("_") or name == "interactions":
            raise AttributeError(name)
        return getattr(self.__dict__["_prepared"][0], name)

    def parameters(self, recurse: bool = True) -> Any:
        """The network's own."""
        return self._prepared[0].parameters(recurse)

    def forward(
        self, data: Batch, *, compute_force: bool = True, compute_stress: bool = False
    ) -> dict[str, torch.Tensor | None]:
        """Energies (B,), forces (ΣN, 3) and stresses (B, 3, 3) or None, without gradients."""
        filled, content = self._filled(data)
        n_edges = filled["edge_index"].shape[1]
        largest = LARGEST if self._prepared[1] is None else LIGHT * LARGEST
        key = (*content, compute_stress)
        operations = self._lists.get(key)
        if operations is None:
            operations = _evaluation(self._prepared[1] or self._prepared[0], filled, compute_stress)
            self._calls[key] += 1
            if self._calls[key] > CALLS and n_edges <= largest:
                operations = _written_down(operations, filled)
                self._lists[key] = operations
                if len(self._lists) > KEPT:
                    self._lists.popitem(last=False)
        else:
            self._lists.move_to_end(key)
        energy, forces, *stress = operations(*(filled[name] for name in _MOVING))
        return {"interaction_energy": energy, "forces": forces, "stress": stress[0] if stress else None}

    def _filled(self, data: Batch) -> tuple[Batch, tuple[Any, ...]]:
        """The batch with more edges, up to a number that is often met, and what its operations depend on."""
        fixed = [data[name] for name in _FIXED]
        if self._latest is None or any(a is not b for a, b in zip(self._latest[0], fixed, strict=True)):
            more = self._longer(data) if self._prepared[1] is None else self._regular(data)
            content = [data[name].numpy().tobytes() for name in ("species", "ptr", "head")]
            self._latest = fixed, more, (*content, more["edge_index"].shape[1])
        _, more, key = self._latest
        return data | more, key

    def _longer(self, data: Batch) -> Batch:
        """Edges with more of them, from the first atom to a far image of it."""
        missing = _often_met(data["edge_index"].shape[1], 32) - data["edge_index"].shape[1]
        first = data["cell"][0]
        unit = math.ceil(20.0 * self._cutoff / float(first.norm()))
        far = {
            "edge_index": data["edge_index"].new_zeros(2, missing),
            "unit_shifts": first.new_tensor([unit, 0, 0]).expand(missing, 3),
            "shifts": (unit * first).expand(missing, 3),
        }
        return {
            name: torch.cat([data[name], more], dim=1 if name == "edge_index" else 0)
            for name, more in far.items()
        }

    def _regular(self, data: Batch) -> Batch:
        """As many edges for every atom, sorted by receiver; some are from it to itself, beyond the cutoff."""
        edge_index, shifts = data["edge_index"], data["shifts"]
        n_atoms = len(data["species"])
        most = int(torch.bincount(edge_index[1], minlength=n_atoms).max())
        places, slots = padded(edge_index[1], n_atoms, _often_met(most, 8))
        atoms = torch.arange(n_atoms).repeat_interleave(slots)
        there = places < edge_index.shape[1]
        sender = atoms.clone()
        sender[there] = edge_index[0, places[there]]
        far = shifts.new_tensor([1.5 * self._cutoff, 0.0, 0.0]).repeat(n_atoms * slots, 1)
        far[there] = shifts[places[there]]
        return {"edge_index": torch.stack([sender, atoms]), "shifts": far}


def _often_met(number: int, least: int) -> int:
    """A number from a short series, this or larger."""
    steps = math.ceil(math.log(max(number, least) / least, ROOM) - 1e-9)
    return math.ceil(float(least) * ROOM**steps)


def _evaluation(network: Any, data: Batch, stress: bool) -> _Operations:
    """A function of what moves; all else of the batch is constant."""
    constant = {name: tensor for name, tensor in data.items() if name not in _MOVING}

    def evaluate(*moving: torch.Tensor) -> tuple[torch.Tensor, ...]:
        batch = constant | dict(zip(_MOVING, moving, strict=True))
        output = network(batch, compute_force=True, compute_stress=stress)
        names = ("interaction_energy", "forces", "stress") if stress else ("interaction_energy", "forces")
        return tuple(output[name].detach() for name in names)

    return evaluate


class _Recorder(TorchDispatchMode):
    """Writes down every operation below autograd; tensors it has not seen being made are constants.

    `branches`: whether a number that depends on what moves has become one of Python's, who may decide by it.
    """

    def __init__(self, moving: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self.graph = Graph()
        self.branches = False
        self.constants = torch.nn.Module()
        self._nodes = {id(tensor): self.graph.placeholder(f"moving_{k}") for k, tensor in enumerate(moving)}
        self._moving = set(self._nodes)
        self._alive: list[Any] = [moving]  # an id is good for as long as its tensor lives

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        results = func(*args, **(kwargs or {}))
        used = [id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        moves = not self._moving.isdisjoint(used)
        if func is torch.ops.aten._local_scalar_dense.default:
            self.branches |= moves
        node = self.graph.call_function(func, *tree_map_only(torch.Tensor, self.node, (args, kwargs or {})))
        if isinstance(results, torch.Tensor):
            self._made(results, node, moves)
        elif isinstance(results, tuple | list):
            for k, result in enumerate(results):
                if isinstance(result, torch.Tensor):
                    self._made(result, self.graph.call_function(getitem, (node, k)), moves)
        return results

    def node(self, tensor: torch.Tensor) -> Node:
        """Where a tensor comes from."""
        if id(tensor) not in self._nodes:
            name = f"constant_{len(self._nodes)}"
            self.constants.register_buffer(name, tensor.detach())
            self._made(tensor, self.graph.get_attr(name), moves=False)
        return self._nodes[id(tensor)]

    def _made(self, tensor: torch.Tensor, node: Node, moves: bool) -> None:
        self._nodes[id(tensor)] = node
        if moves:
            self._moving.add(id(tensor))
        self._alive.append(tensor)


def _written_down(evaluate: _Operations, data: Batch) -> _Operations:
    """The operations that `evaluate` comes down to, gradients and all, as TorchScript.

    Where they depend on numbers, `evaluate` itself comes back.
    """
    moving = tuple(data[name].clone() for name in _MOVING)
    recorder = _Recorder(moving)
    with recorder:
        results = evaluate(*moving)
    if recorder.branches:
        return evaluate
    recorder.graph.output(tuple(recorder.node(result) for result in results))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's notices of the deprecation of TorchScript
        module = GraphModule(recorder.constants, recorder.graph).eval()
        script: _Operations = torch.jit.freeze(torch.jit.trace(module, moving, check_trace=False).eval())
    elsewhere = (moving[0] + 0.01 * torch.arange(moving[0].numel()).sin().view_as(moving[0]), *moving[1:])
    pairs = zip(script(*elsewhere), evaluate(*elsewhere), strict=True)
    same = all(torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5, equal_nan=True) for ours, theirs in pairs)
    return script if same else evaluate
