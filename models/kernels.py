"""Faster forms of the costliest parts of a MACE layer: convolution, skip product, contraction to scalars.

mace-torch writes every edge's message, edges × channels × (l_max + 1)² numbers, to memory before it sums
them over the neighbours, multiplies every atom with the weights of every element, and contracts squares as
if they were general products. Here the sums over edges are sparse matrix products whose messages never exist
as a whole, and an atom meets the weights of its own element only. The parameters are the network's own;
energies and all their derivatives agree to rounding.
"""

import math
from typing import Any

import torch
from torch.nn.functional import embedding_bag

from models.networks.ace import Ace
from models.networks.regular_ace import RegularAce
from models.potentials import Network

# The gradient of a weighted sum of rows with respect to its weights: scalar products of pairs of rows.
_dot = torch.ops.aten._embedding_bag_per_sample_weights_backward


def fused(network: Network) -> Network:
    """The same network, sharing all parameters and buffers, with faster interactions where they are known.

    Known are convolutions of scalar node features (every first layer, and every layer of a network without
    equivariant hidden features), skip products with one-hot elements, and contractions of correlation 2 to
    scalars. Others stay as they are, and so do networks compiled with TorchScript, networks that are no MACE,
    and those on a GPU, for which none of this was measured.
    """
    known = hasattr(network, "interactions") and not isinstance(network, torch.jit.ScriptModule)
    if not known or next(network.parameters()).device.type != "cpu":
        return network
    fast = _shallow(network)
    fast.interactions = torch.nn.ModuleList([_fused_interaction(block) for block in network.interactions])
    fast.products = torch.nn.ModuleList([_fused_product(block) for block in network.products])
    return fast


def for_inference(network: Network) -> Network:
    """`fused`, with parameters that are constants: forces are cheaper where nothing is trained."""
    return network if isinstance(network, torch.jit.ScriptModule) else _constant(fused(network))


def regular(network: Network) -> torch.nn.Module | None:
    """`for_inference` for batches in which every atom has the same number of edges, sorted by receiver.

    None where no such form is known.
    """
    return RegularAce(_constant(network)) if isinstance(network, Ace) else None


def _constant(module: Any) -> Any:
    if isinstance(module, torch.jit.ScriptModule):
        return module
    other = _shallow(module)
    other._parameters = {name: p if p is None else p.detach() for name, p in module._parameters.items()}
    other._modules = {
        name: child if child is None else _constant(child) for name, child in module._modules.items()
    }
    return other


def _shallow(module: Any) -> Any:
    """A module of its own with the same parameters, buffers and children."""
    other = object.__new__(type(module))  # copy.copy would let e3nn's modules compile theirs again
    other.__dict__ = dict(module.__dict__)
    for table in ("_modules", "_parameters", "_buffers"):
        setattr(other, table, dict(getattr(module, table)))
    return other


def _fused_interaction(block: Any) -> Any:
    fast = _shallow(block)
    if Convolution.replaces(getattr(block, "conv_tp", None)):
        fast.conv_tp = Convolution(block.conv_tp)
        fast.conv_fusion = True  # mace's blocks then leave gathering and summing to `conv_tp`
    if SkipProduct.replaces(getattr(block, "skip_tp", None)):
        fast.skip_tp = SkipProduct(block.skip_tp)
    return fast


def _fused_product(block: Any) -> Any:
    contraction = getattr(block.symmetric_contractions, "contractions", None)
    if contraction is None or len(contraction) != 1 or not Squares.replaces(contraction[0]):
        return block
    fast = _shallow(block)
    fast.symmetric_contractions = Squares(contraction[0])
    return fast


class Edges:
    """The index arithmetic of a neighbour list with E edges and N atoms.

    Three bilinear maps connect edge features `p` (E, L, C), harmonics `y` (E, M), M = Σ(2l+1), and node
    features `a` (M, N, C), where l(m) is the degree that component m belongs to:
    `sum_edges`: a[m, n] = Σ y[e, m] p[e, l(m)] over the edges e that end at n; `spread`:
    p[e, l] = Σ y[e, m] a[m, end(e)] over m of degree l; `contract`: y[e, m] = a[m, end(e)] · p[e, l(m)].
    The derivatives of each are the other two, so that any order can be had.
    """

    def __init__(self, edge_index: torch.Tensor, n_atoms: int, degrees: tuple[int, ...]) -> None:
        self.sender, receiver = edge_index
        self.n_atoms, self.n_edges, self.n_degrees = n_atoms, len(receiver), len(degrees)
        device = receiver.device
        sizes = torch.tensor([2 * degree + 1 for degree in degrees], device=device)
        self.n_components = sum(2 * degree + 1 for degree in degrees)
        component = torch.arange(self.n_components, device=device)
        degree_of = torch.repeat_interleave(torch.arange(self.n_degrees, device=device), sizes)
        self.order = torch.argsort(receiver, stable=True)
        counts = torch.bincount(receiver, minlength=n_atoms)
        starts = counts.cumsum(0) - counts
        self.by_node = (self.order * self.n_degrees + degree_of[:, None]).view(-1)
        self.node_starts = (starts + component[:, None] * self.n_edges).view(-1)
        self.by_edge = (receiver[:, None] + component * n_atoms).view(-1)
        edge = torch.arange(self.n_edges, device=device)[:, None]
        self.edge_starts = (edge * self.n_components + sizes.cumsum(0) - sizes).view(-1)
        self.edge_bags = (edge * self.n_degrees + degree_of).view(-1)

    def sum_edges(self, p: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        rows = embedding_bag(
            self.by_node,
            p.reshape(-1, p.shape[-1]),
            self.node_starts,
            mode="sum",
            per_sample_weights=y[self.order].T.reshape(-1),
        )
        return rows.view(self.n_components, self.n_atoms, p.shape[-1])

    def spread(self, a: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        rows = embedding_bag(
            self.by_edge,
            a.reshape(-1, a.shape[-1]),
            self.edge_starts,
            mode="sum",
            per_sample_weights=y.reshape(-1),
        )
        return rows.view(self.n_edges, self.n_degrees, a.shape[-1])

    def contract(self, a: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        channels = a.shape[-1]
        products = _dot(
            p.reshape(-1, channels),
            a.reshape(-1, channels),
            self.by_edge,
            self.edge_starts,
            self.edge_bags,
            0,
            -1,
        )
        return products.view(self.n_edges, self.n_components)


class _SumEdges(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, edges: Edges, p: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        ctx.edges = edges
        ctx.save_for_backward(p, y)
        return edges.sum_edges(p, y)

    @staticmethod
    def backward(ctx: Any, a: torch.Tensor) -> Any:
        p, y = ctx.saved_tensors
        _, need_p, need_y = ctx.needs_input_grad
        return (
            None,
            _Spread.apply(ctx.edges, a, y) if need_p else None,
            _Contract.apply(ctx.edges, a, p) if need_y else None,
        )


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, edges: Edges, a: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        ctx.edges = edges
        ctx.save_for_backward(a, y)
        return edges.spread(a, y)

    @staticmethod
    def backward(ctx: Any, p: torch.Tensor) -> Any:
        a, y = ctx.saved_tensors
        _, need_a, need_y = ctx.needs_input_grad
        return (
            None,
            _SumEdges.apply(ctx.edges, p, y) if need_a else None,
            _Contract.apply(ctx.edges, a, p) if need_y else None,
        )


class _Contract(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, edges: Edges, a: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        ctx.edges = edges
        ctx.save_for_backward(a, p)
        return edges.contract(a, p)

    @staticmethod
    def backward(ctx: Any, y: torch.Tensor) -> Any:
        a, p = ctx.saved_tensors
        _, need_a, need_p = ctx.needs_input_grad
        return (
            None,
            _SumEdges.apply(ctx.edges, p, y) if need_a else None,
            _Spread.apply(ctx.edges, a, y) if need_p else None,
        )


class Convolution(torch.nn.Module):
    """Messages of scalar node features, summed over neighbours: gather, tensor product and scatter in one."""

    @staticmethod
    def replaces(product: Any) -> bool:
        """Whether this is a channelwise product of scalars with one path, of factor 1, per degree."""
        if not hasattr(product, "irreps_in2"):
            return False
        harmonics = product.irreps_in2
        return (
            len(product.irreps_in1) == 1
            and product.irreps_in1.lmax == 0
            and not product.internal_weights
            and all(mul == 1 for mul, _ in harmonics)
            and len(product.instructions) == len(harmonics)
            and all(
                (path.i_in1, path.i_in2, path.i_out, path.connection_mode, path.has_weight)
                == (0, i, i, "uvu", True)
                and math.isclose(path.path_weight, math.sqrt(harmonics[i].ir.dim))
                for i, path in enumerate(product.instructions)
            )
        )

    def __init__(self, product: Any) -> None:
        super().__init__()
        self.degrees = tuple(irrep.l for _, irrep in product.irreps_in2)

    def forward(
        self,
        node_feats: torch.Tensor,
        edge_attrs: torch.Tensor,
        weights: torch.Tensor,
        edge_index: torch.Tensor,
    ) -> torch.Tensor:
        """Summed messages (N, C Σ(2l+1)) in e3nn's layout, from node features (N, C)."""
        n_atoms, channels = node_feats.shape
        edges = Edges(edge_index, n_atoms, self.degrees)
        p = node_feats.index_select(0, edges.sender)[:, None] * weights.view(-1, len(self.degrees), channels)
        parts = _SumEdges.apply(edges, p, edge_attrs).split([2 * degree + 1 for degree in self.degrees])
        return torch.cat([part.permute(1, 2, 0).reshape(n_atoms, -1) for part in parts], dim=1)


class SkipProduct(torch.nn.Module):
    """The product of node features with one-hot elements: every element has a matrix of its own."""

    @staticmethod
    def replaces(product: Any) -> bool:
        """Whether every path of this product maps one irrep with the elements to itself."""
        return (
            hasattr(product, "irreps_in2")
            and product.internal_weights
            and len(product.irreps_in2) == 1
            and product.irreps_in2.lmax == 0
            and [(p.i_in1, p.i_out, p.connection_mode, p.has_weight) for p in product.instructions]
            == [(i, i, "uvw", True) for i in range(len(product.irreps_in1))]
            and len(product.irreps_in1) == len(product.irreps_out)
        )

    def __init__(self, product: Any) -> None:
        super().__init__()
        self.product = product
        self.paths = [
            (path.path_weight / math.sqrt(irrep.dim), mul, irrep.dim, path.path_shape)
            for path, (mul, irrep) in zip(product.instructions, product.irreps_in1, strict=True)
        ]

    def forward(self, node_feats: torch.Tensor, node_attrs: torch.Tensor) -> torch.Tensor:
        """Features (N, ·) in e3nn's layout; `node_attrs` (N, elements) is one-hot."""
        order = torch.argsort(node_attrs.argmax(dim=1), stable=True)
        counts = [int(n) for n in node_attrs.sum(dim=0)]
        present = [z for z, n in enumerate(counts) if n]
        weights = self.product.weight.split([math.prod(shape) for *_, shape in self.paths])
        fields = node_feats.index_select(0, order).split([mul * dim for _, mul, dim, _ in self.paths], dim=1)
        results = []
        for field, weight, (factor, mul, dim, shape) in zip(fields, weights, self.paths, strict=True):
            rows = field.view(-1, mul, dim).transpose(1, 2).reshape(-1, mul)
            matrices = (factor * weight.view(shape)).unbind(1)
            parts = rows.split([counts[z] * dim for z in present])
            mixed = torch.cat([part @ matrices[z] for part, z in zip(parts, present, strict=True)])
            results.append(mixed.view(-1, dim, shape[2]).transpose(1, 2).reshape(len(node_feats), -1))
        return torch.cat(results, dim=1).index_select(0, torch.argsort(order))


class Squares(torch.nn.Module):
    """The symmetric contraction to scalars of correlation 2: weighted sums of squares, per element."""

    @staticmethod
    def replaces(contraction: Any) -> bool:
        """Whether this contraction couples every component only with itself."""
        if contraction.correlation != 2:
            return False
        coupling = contraction.U_tensors(2)
        off_diagonal = ~torch.eye(coupling.shape[0], dtype=torch.bool) if coupling.dim() == 3 else None
        return off_diagonal is not None and not coupling[off_diagonal].any()

    def __init__(self, contraction: Any) -> None:
        super().__init__()
        self.contraction = contraction
        coupling = contraction.U_tensors(2)
        self.squares = torch.diagonal(coupling).T.contiguous()
        self.linear = contraction.U_tensors(1)

    def forward(self, node_feats: torch.Tensor, node_attrs: torch.Tensor) -> torch.Tensor:
        """Scalars (N, C) from features (N, C, Σ(2l+1)); `node_attrs` (N, elements) is one-hot."""
        weights = torch.cat([self.contraction.weights_max, self.contraction.weights[0]], dim=1)
        per_atom = (node_attrs @ weights.flatten(1)).view(len(node_attrs), *weights.shape[1:])
        squares = (node_feats * node_feats) @ self.squares
        return (per_atom * torch.cat([squares, node_feats @ self.linear], dim=2).transpose(1, 2)).sum(dim=1)
