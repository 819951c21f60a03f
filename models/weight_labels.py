"""What every weight of a MACE network belongs to: degree, path, element, radial function and channel."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from ase.data import chemical_symbols

from models.potentials import Network

Dimension = Literal["degree", "path", "element", "radial function", "radial channel"]
DIMENSIONS: tuple[Dimension, ...] = get_args(Dimension)
NUMBERED = ("radial function", "radial channel")
"""Dimensions whose labels are numbers."""


@dataclass(frozen=True)
class Labels:
    """Labels of one tensor's weights in one dimension: `names`, and per weight (n,) which; −1: none."""

    names: tuple[str, ...]
    codes: np.ndarray


TensorLabels = dict[Dimension, Labels]


def labels(network: Network) -> dict[str, TensorLabels]:
    """By parameter what its weights belong to; of a network that is no MACE nothing is known.

    `degree` is the l of the irreps that a weight mixes; in a convolution, whose weights a radial network
    gives, that of the edge's spherical harmonic; in a symmetric contraction the highest that it couples.
    `path` names the irreps that go in and come out, but for the elements, which are scalars. `element` is
    that of an embedding's row, of a skip product and of a contraction (there of the atom that receives). No
    weight of a MACE belongs to a pair of elements. `radial function` is the number of the basis function that
    enters a radial network, `radial channel` the feature channel that a weight of its last layer scales.
    """
    found: dict[str, TensorLabels] = {name: {} for name, _ in network.named_parameters()}
    if not hasattr(network, "interactions"):
        return found
    symbols = tuple(chemical_symbols[int(z)] for z in network.atomic_numbers)
    for name, module in network.named_modules():
        for tensor, given in _of_module(name, module, symbols):
            if tensor in found:
                found[tensor] = given
    bessel = int(network.radial_embedding.out_dim)
    for number, block in enumerate(network.interactions):
        for tensor, given in _of_radial(f"interactions.{number}", block, bessel):
            found.setdefault(tensor, {}).update(given)
    return found


def degree(number: int) -> str:
    """What a degree is called: "l = 2"."""
    return f"l = {number}"


def _of_module(name: str, module: Any, symbols: tuple[str, ...]) -> Iterator[tuple[str, TensorLabels]]:
    from models import mace_torch

    weights = f"{name}.weight"
    if isinstance(module, mace_torch.o3.Linear):
        if name.endswith(("embedding.linear", "source_embedding", "target_embedding")):
            shape = (len(symbols), module.weight_numel // len(symbols))
            yield weights, {"element": _axis(symbols, shape, 0)}
            return
        ends = [
            (module.irreps_in[p.i_in].ir, module.irreps_out[p.i_out].ir, p.path_shape)
            for p in module.instructions
            if p.i_in != -1  # of a bias
        ]
        yield weights, _of_paths((start.l, f"{start} → {end}", shape) for start, end, shape in ends)
    elif isinstance(module, mace_torch.o3.TensorProduct) and module.internal_weights:
        paths = [
            (module.irreps_in1[p.i_in1].ir, module.irreps_out[p.i_out].ir, p.path_shape)
            for p in module.instructions
            if p.has_weight
        ]
        given = _of_paths((start.l, f"{start} → {end}", shape) for start, end, shape in paths)
        if module.irreps_in2.num_irreps == len(symbols):
            parts = [_axis(symbols, shape, 1).codes for *_, shape in paths]
            given["element"] = Labels(symbols, np.concatenate(parts))
        yield weights, given
    elif isinstance(module, mace_torch.modules.SymmetricContraction):
        contraction: Any
        for number, (contraction, out) in enumerate(zip(module.contractions, module.irreps_out, strict=True)):
            start = f"{name}.contractions.{number}"
            for order in range(1, contraction.correlation + 1):
                lower = contraction.correlation - 1 - order
                tensor = contraction.weights_max if lower < 0 else contraction.weights[lower]
                if tensor.numel():
                    coupled = _coupled(contraction.U_tensors(order), order, module.irreps_in)
                    part = "weights_max" if lower < 0 else f"weights.{lower}"
                    yield f"{start}.{part}", _of_contraction(tensor.shape, coupled, str(out.ir), symbols)


def _of_paths(paths: Iterable[tuple[int, str, tuple[int, ...]]]) -> TensorLabels:
    """Labels of the weights of paths one after the other: the degree, the name and the shape of each."""
    listed = list(paths)
    sizes = [int(np.prod(shape)) for *_, shape in listed]
    return {
        "degree": _repeated([degree(number) for number, *_ in listed], sizes),
        "path": _repeated([path for _, path, _ in listed], sizes),
    }


def _of_contraction(
    shape: tuple[int, ...], coupled: list[tuple[int, ...]], out: str, symbols: tuple[str, ...]
) -> TensorLabels:
    """Labels of weights (elements, paths, channels); a contraction for all elements has one row."""
    paths = [f"{'·'.join(str(number) for number in degrees)} → {out}" for degrees in coupled]
    given: TensorLabels = {
        "degree": _named([degree(max(degrees, default=0)) for degrees in coupled], shape, 1),
        "path": _named(paths, shape, 1),
    }
    if shape[0] == len(symbols):
        given["element"] = _axis(symbols, shape, 0)
    return given


def _coupled(coupling: Any, order: int, irreps: Any) -> list[tuple[int, ...]]:
    """For each path of a coupling ([2L+1,] M, …, M, paths) the degrees that enter it; M = Σ(2l+1)."""
    array = np.abs(np.asarray(coupling.detach().cpu()))
    array = array.reshape(-1, *array.shape[-1 - order :]).sum(axis=0)  # (M, …, M, paths)
    of_component = np.concatenate([[ir.l] * ir.dim for _, ir in irreps])
    found = []
    for path in np.moveaxis(array, -1, 0):
        combined = {tuple(sorted(of_component[list(at)].tolist())) for at in np.argwhere(path)}
        # A reduced basis may mix several couplings in one path: then the degrees of all of them.
        found.append(
            next(iter(combined))
            if len(combined) == 1
            else tuple(sorted({number for one in combined for number in one}))
        )
    return found


def _of_radial(name: str, block: Any, bessel: int) -> Iterator[tuple[str, TensorLabels]]:
    """The first and last layers of the network that gives a convolution its weights."""
    layers = [
        (tensor, weights)
        for tensor, weights in block.conv_tp_weights.named_parameters()
        if weights.dim() == 2  # not biases and norms
    ]
    linear = hasattr(block.conv_tp_weights, "net")  # torch's layers are (out, in), e3nn's (in, out)
    (first, entering), (last, leaving) = layers[0], layers[-1]
    inputs = [str(k + 1) if k < bessel else None for k in range(entering.shape[1 if linear else 0])]
    yield (
        f"{name}.conv_tp_weights.{first}",
        {"radial function": _named(inputs, entering.shape, 1 if linear else 0)},
    )
    product = block.conv_tp
    paths = [
        (product.irreps_in1[p.i_in1].ir, product.irreps_in2[p.i_in2].ir, product.irreps_out[p.i_out].ir, size)
        for p in product.instructions
        if p.has_weight and (size := int(np.prod(p.path_shape)))
    ]
    if sum(size for *_, size in paths) != leaving.shape[0 if linear else 1]:
        return
    columns: dict[Dimension, list[str]] = {"degree": [], "path": [], "radial channel": []}
    for start, edge, end, size in paths:
        columns["degree"] += [degree(edge.l)] * size
        columns["path"] += [f"{start} × {edge} → {end}"] * size
        columns["radial channel"] += [str(k + 1) for k in range(size)]
    axis = 0 if linear else 1
    yield (
        f"{name}.conv_tp_weights.{last}",
        {dimension: _named(words, leaving.shape, axis) for dimension, words in columns.items()},
    )


def _repeated(words: list[str], sizes: list[int]) -> Labels:
    """Labels of runs of weights."""
    names = tuple(dict.fromkeys(words))
    return Labels(names, np.repeat([names.index(word) for word in words], sizes))


def _named(words: Iterable[str | None], shape: tuple[int, ...], axis: int) -> Labels:
    """Labels along one axis of a tensor."""
    listed = list(words)
    names = tuple(dict.fromkeys(word for word in listed if word is not None))
    codes = np.array([-1 if word is None else names.index(word) for word in listed])
    return Labels(names, _spread(codes, shape, axis))


def _axis(names: tuple[str, ...], shape: tuple[int, ...], axis: int) -> Labels:
    return Labels(names, _spread(np.arange(len(names)), shape, axis))


def _spread(codes: np.ndarray, shape: tuple[int, ...], axis: int) -> np.ndarray:
    """Codes along one axis as codes of all the flat weights."""
    wide = [1] * len(shape)
    wide[axis] = shape[axis]
    return np.broadcast_to(codes.reshape(wide), shape).astype(np.int16).ravel()
