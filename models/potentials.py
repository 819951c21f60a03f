"""MACE networks: build, save, load, change heads, export; with `models/mace_torch.py` the one adapter to it.

How they are kept in files is in `models/checkpoints.py`.
"""

import copy
import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols

from models import checkpoints, devices
from models.checkpoints import CheckpointError as CheckpointError
from models.checkpoints import header as header
from models.networks import KINDS, EdgeNetwork

# TorchScript would rewrite functions after their first calls, and round differently from then on: a
# prediction would depend on what ran before it. Without, a step of dynamics also costs less.
torch.jit.set_fusion_strategy([("STATIC", 0), ("DYNAMIC", 0)])

Network = Any
"""A `ScaleShiftMACE` or an `EdgeNetwork`; torch types none of the attributes of mace's modules."""

_IRREPS = ("hidden_irreps", "MLP_irreps", "edge_irreps")
_CLASSES = ("interaction_cls", "interaction_cls_first", "readout_cls")
E0S = "atomic_energies_fn.atomic_energies"
_ARRAYS = ("atomic_energies", "atomic_inter_scale", "atomic_inter_shift", "atomic_numbers")
_DTYPES = {"float32": torch.float32, "float64": torch.float64}
_GATES = {"silu": torch.nn.functional.silu, "tanh": torch.tanh, "abs": torch.abs, None: None}


@dataclass(frozen=True, kw_only=True)
class Potential:
    """A network with what its numbers mean.

    `level_of_theory` maps each head to the level its labels came from; `provenance` is free JSON
    (name, licence, citation) that travels with the file.
    """

    network: Network
    level_of_theory: Mapping[str, str]
    provenance: Mapping[str, Any]

    @property
    def heads(self) -> list[str]:
        """Names of the heads, in the network's order."""
        return list(self.network.heads)

    @property
    def elements(self) -> list[int]:
        """Atomic numbers the network knows, in the order of its one-hot species."""
        return [int(z) for z in self.network.atomic_numbers]

    @property
    def symbols(self) -> list[str]:
        """Chemical symbols the network knows."""
        return [chemical_symbols[z] for z in self.elements]

    @property
    def cutoff(self) -> float:
        """Cutoff radius of one message-passing layer, Å."""
        return float(self.network.r_max)

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the parameters."""
        return next(self.network.parameters()).dtype

    @property
    def magnetic(self) -> bool:
        """Whether it knows magnetic moments."""
        return hasattr(self.network, "magnetism")

    def e0s(self, head: str | None = None) -> dict[int, float]:
        """Isolated-atom energies of `head` (default: the last one), eV, by atomic number."""
        index = self.heads.index(head) if head is not None else len(self.heads) - 1
        row = torch.atleast_2d(self.network.atomic_energies_fn.atomic_energies)[index]
        return dict(zip(self.elements, (float(e) for e in row), strict=True))


@contextmanager
def building(dtype: torch.dtype) -> Iterator[None]:
    """Build networks in a block: torch's default type is `dtype`, in which e3nn makes its buffers.

    The deprecation notices that torch has for e3nn's and mace's TorchScript are not shown.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_default_dtype(before)


def architecture(network: Network) -> dict[str, Any]:
    """The JSON-ready description from which `build` makes the same network again."""
    if isinstance(network, EdgeNetwork):
        return network.description
    from models import mace_torch

    if magnetism := getattr(network, "magnetism", None):
        from models.magnetic_mace import without_moments

        return architecture(without_moments(network)) | {"magnetism": magnetism.description}
    config = mace_torch.extract_config_mace_model(network)
    if "error" in config:
        raise CheckpointError(f"{type(network).__name__} is not supported: {config['error']}")
    if config["gate"] not in _GATES.values():
        raise CheckpointError(f"the readout's activation {config['gate']} is not supported")
    config["gate"] = next(name for name, gate in _GATES.items() if gate is config["gate"])
    for key in _CLASSES:
        config[key] = config[key].__name__
    for key in _IRREPS:
        config[key] = None if config[key] is None else str(config[key])
    for key in _ARRAYS:
        config[key] = np.asarray(config[key]).tolist()
    return {key: value for key, value in config.items() if value is not None}


def build(description: Mapping[str, Any], dtype: torch.dtype = torch.float32) -> Network:
    """A freshly initialised network of this architecture (see `architecture`)."""
    if "network" in description:
        with building(dtype):
            return KINDS[description["network"]](dict(description))
    from models import mace_torch

    config = dict(description)
    for key in _CLASSES:
        if key in config:
            config[key] = mace_torch.BLOCKS[config[key]]
    for key in _IRREPS:
        if config.get(key) is not None:
            config[key] = mace_torch.o3.Irreps(config[key])
    config["gate"] = _GATES[config.get("gate")]
    for key in _ARRAYS[:3]:
        config[key] = np.asarray(config[key], dtype=np.float64)
    magnetism = config.pop("magnetism", None)
    with building(dtype):
        network = mace_torch.modules.ScaleShiftMACE(**config).to(dtype)
        if magnetism is not None:
            from models.magnetic_mace import give_moments

            give_moments(network, magnetism)
    set_e0s(network, config["atomic_energies"])
    return network


def blank(description: Mapping[str, Any], dtype: torch.dtype = torch.float32) -> Network:
    """A network as `build` makes it, for weights that exist: what is in it until then means nothing.

    Building takes e3nn a second, copying what was built before a tenth of it.
    """
    if "network" in description:  # of our own, which are built at once
        return build(description, dtype)
    energies = np.atleast_2d(np.asarray(description["atomic_energies"], dtype=np.float64))
    without = dict(description) | {"atomic_energies": np.zeros_like(energies)}
    network = copy.deepcopy(_template(json.dumps(without, default=lambda array: array.tolist()), dtype))
    set_e0s(network, energies)
    return network


@lru_cache(maxsize=8)
def _template(description: str, dtype: torch.dtype) -> Network:
    with torch.random.fork_rng(devices=[]):  # random numbers of the caller do not depend on what was built
        return build(json.loads(description), dtype)


def set_e0s(network: Network, energies: np.ndarray) -> None:
    """Write E0s (heads × elements, eV) into the network, in float64 whatever the network's type."""
    # A copy: the network's buffers may be written to later, the caller's array must not be.
    network.atomic_energies_fn.atomic_energies = torch.tensor(np.atleast_2d(energies), dtype=torch.float64)


def save(potential: Potential, path: Path) -> None:
    """Write a checkpoint. The same weights and description always give the same bytes."""
    checkpoints.write(path, description(potential), state(potential.network))


def description(potential: Potential) -> dict[str, Any]:
    """What a checkpoint says of a potential beside its weights."""
    return {
        "architecture": architecture(potential.network),
        "dtype": str(potential.dtype).removeprefix("torch."),
        "level_of_theory": dict(potential.level_of_theory),
        "provenance": dict(potential.provenance),
    }


def state(network: Network) -> dict[str, torch.Tensor]:
    """What a checkpoint keeps of a network: every tensor that holds something, on the CPU."""
    return {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items() if v.numel()}


def load(path: Path, dtype: torch.dtype | None = None) -> Potential:
    """Read a checkpoint, in its own floating-point type or in `dtype`; raises CheckpointError."""
    described, weights = checkpoints.read(path)
    try:
        network = blank(described["architecture"], dtype or _DTYPES[described["dtype"]])
    except (LookupError, TypeError, ValueError, AttributeError, AssertionError) as error:
        raise CheckpointError(
            f"{path}: describes no network that can be built ({type(error).__name__}: {error})"
        ) from error
    _fill(network, weights, str(path))
    return Potential(
        network=network.eval(),
        level_of_theory=described["level_of_theory"],
        provenance=described["provenance"],
    )


def taken(
    described: Mapping[str, Any], weights: Mapping[str, torch.Tensor], wanted: Mapping[str, Any]
) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint in an architecture that has other heads or fewer elements."""
    dtype = _DTYPES[described["dtype"]]
    start = blank(described["architecture"], dtype)
    _fill(start, weights, "the foundation")
    network = blank(wanted, dtype)
    take_weights(network, start)
    return state(network)


def _fill(network: Network, weights: Mapping[str, torch.Tensor], where: str) -> None:
    """Copy weights and E0s into a freshly built network; raises CheckpointError where they do not fit."""
    # e3nn's empty constants come and go with its version; they hold nothing.
    expected = {name: tensor.shape for name, tensor in network.state_dict().items() if tensor.numel()}
    given = {name: tensor.shape for name, tensor in weights.items() if tensor.numel()}
    if wrong := sorted(n for n in expected | given if expected.get(n) != given.get(n)):
        raise CheckpointError(f"{where}: weights do not fit the described network: {', '.join(wrong[:5])}")
    network.load_state_dict({name: weights[name] for name in given}, strict=False)


def from_mace(
    network: Network,
    *,
    level_of_theory: str,
    provenance: Mapping[str, Any],
    dtype: torch.dtype | None = None,
) -> Potential:
    """A potential from an unpickled mace-torch model, in its own floating-point type or in `dtype`.

    The E0s are kept in their own precision. Raises CheckpointError on another kind of network.
    """
    rebuilt = blank(architecture(network), dtype or next(network.parameters()).dtype)
    weights = dict(network.state_dict())
    weights[E0S] = torch.atleast_2d(weights[E0S])  # models from before there were heads have a vector
    _fill(rebuilt, weights, type(network).__name__)
    return Potential(
        network=rebuilt.eval(),
        level_of_theory=dict.fromkeys(rebuilt.heads, level_of_theory),
        provenance=provenance,
    )


def take_weights(network: Network, foundation: Network, donors: Mapping[int, int] | None = None) -> None:
    """Give a freshly built network the weights of a foundation with one head, in every head of its own.

    The network's elements are some or all of the foundation's, or such that `donors` names one of these for,
    by atomic number, whose weights they take. Its E0s stay its own, and what the foundation does not train
    is not trained.
    """
    from models import mace_torch

    sources = [(donors or {}).get(z, z) for z in (int(z) for z in network.atomic_numbers)]
    e0s = network.atomic_energies_fn.atomic_energies.numpy().copy()
    with building(next(network.parameters()).dtype):
        mace_torch.load_foundations_elements(
            network,
            foundation,
            mace_torch.AtomicNumberTable(sources),
            load_readout=True,
            max_L=mace_torch.o3.Irreps(architecture(network)["hidden_irreps"]).lmax,
        )
    # mace-torch 0.3.16 copies the foundation's E0s over the requested ones when the shapes agree, and
    # makes parameters of the radial basis's constants.
    set_e0s(network, e0s)
    if hasattr(foundation, "magnetism"):
        known = [int(z) for z in foundation.atomic_numbers]
        network.magnetism.take(foundation.magnetism, [known.index(z) for z in sources])
    trainable = dict(foundation.named_parameters())
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in trainable)


def export_mace(potential: Potential, path: Path) -> None:
    """Write a plain MACE `.model` file, in float64, that `MACECalculator` opens.

    Raises ValueError on a network that is no MACE, or has magnetic moments.
    """
    if potential.magnetic:
        raise ValueError(
            "this potential has magnetic moments, which mace-torch's own calculator does not know; "
            "`temper export` writes it for ASE"
        )
    if isinstance(potential.network, EdgeNetwork):
        raise ValueError(
            f"this potential is of kind {potential.network.kind!r} and no MACE, so there is no .model file "
            "of it; `temper export` writes it for ASE, TorchScript, LAMMPS and torch-sim"
        )
    network = blank(architecture(potential.network), torch.float64)
    network.load_state_dict(potential.network.state_dict())
    torch.save(network, path)


def compiled(potential: Potential) -> Potential:
    """The same potential with its network in TorchScript, for many calls on small systems.

    Same numbers to rounding; a step of a student's dynamics costs a third less. Its parameters are
    constants on the chosen device. One that is compiled already comes back as it is, and one with magnetic
    moments, which TorchScript cannot hold.
    """
    if potential.magnetic or isinstance(potential.network, torch.jit.ScriptModule):
        return potential
    network = copy.deepcopy(potential.network).requires_grad_(False).to(devices.chosen())
    with building(potential.dtype):
        if isinstance(network, EdgeNetwork):
            return replace(potential, network=torch.jit.script(network))
        from models import mace_torch

        return replace(potential, network=mace_torch.jit.compile(network))


def irreps_dim(irreps: str) -> int:
    """Number of components of irreps such as "16x0e+4x1o"."""
    from models import mace_torch

    return int(mace_torch.o3.Irreps(irreps).dim)


def n_parameters(network: Network) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)
