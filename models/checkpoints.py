"""Checkpoint files: a description and weights, whole or as a sparse change of a foundation.

A checkpoint is one safetensors file: the state dict, and under the single metadata key `temper` a canonical
JSON of everything needed to build the network again. Reading it runs no foreign code.

In a *delta* the description names the sha256 of another checkpoint's file, its foundation, and only what is
different is stored: of a changed tensor NAME the flat positions `NAME/index` (int32, ascending) and the new
values `NAME/value`; tensors that are new, of another shape or changed nearly everywhere are stored whole. The
rest is the foundation's, which is first brought into the architecture of the delta where it has more elements
or fewer heads, as fine-tuning does it. What is rebuilt is compared with the sha256 of the whole checkpoint: a
delta gives its very bytes, or an error.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save as serialised

FORMAT = 2
SHIPPED = Path(__file__).parent / "foundations"
WORTH = 4  # times smaller than the whole checkpoint a delta has to be

_METADATA_KEY = "temper"
_WHOLE, _DELTA = 1, 2  # formats
_INDEX, _VALUE = "/index", "/value"
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_TABLES = {  # what the foundation's architecture may have otherwise: heads and elements
    *("heads", "num_elements", "atomic_numbers", "atomic_energies"),
    *("atomic_inter_scale", "atomic_inter_shift"),
}

Tensors = dict[str, torch.Tensor]


class CheckpointError(ValueError):
    """A file that is not a checkpoint of ours, or not one that this version can read."""


class NotACheckpoint(CheckpointError):
    """A safetensors file of something else."""


def header(path: Path) -> dict[str, Any]:
    """The description in a checkpoint, without its weights; raises CheckpointError."""
    return _read(path, weights=False)[0]


def foundation_of(path: Path) -> str | None:
    """The sha256 of the file that a delta is a change of; None for a whole checkpoint."""
    delta = header(path).get("delta")
    return delta and str(delta["foundation"])


def read(path: Path) -> tuple[dict[str, Any], Tensors]:
    """The description of a checkpoint and all its weights, whichever form they are stored in.

    A delta's foundation is looked for where files are named by their sha256, beside it (`SHA.safetensors`, or
    `AB/CDEF….safetensors` in the folder above, as a store has it), and among those that ship with Temper.
    Raises CheckpointError where it is not there.
    """
    described, stored = _read(path)
    delta = described.get("delta")
    if delta is None:
        return described, stored
    whole = {key: value for key, value in described.items() if key != "delta"} | {"format": _WHOLE}
    base = aligned(*read(_found(delta["foundation"], path)), whole)
    weights = _applied(base, stored, delta["dropped"], path)
    if hashlib.sha256(_bytes(whole, weights)).hexdigest() != delta["whole"]:
        raise CheckpointError(
            f"{path}: what is rebuilt from its foundation is not what was saved; use the Temper that made it"
        )
    return whole, weights


def write(path: Path, described: Mapping[str, Any], weights: Tensors) -> None:
    """Write a whole checkpoint. The same weights and description always give the same bytes."""
    # save_file says of a full disk what nobody understands
    path.write_bytes(_bytes(dict(described) | {"format": _WHOLE}, weights))


def smallest(checkpoint: Path, foundation: Path) -> Path:
    """The file that a checkpoint made from this foundation is best kept as: itself, or a delta beside it.

    A delta is made where it is at most a quarter as large. Of the same files it is always the same bytes.
    """
    described, weights = read(checkpoint)
    base = aligned(*read(foundation), described)
    stored: Tensors = {}
    for name, tensor in weights.items():
        old = base.get(name)
        if old is None or not comparable(old, tensor):
            stored[name] = tensor
            continue
        index = changed(old, tensor).nonzero().flatten().int()
        if len(index) * (index.element_size() + tensor.element_size()) > tensor.nbytes:
            stored[name] = tensor
        elif len(index):
            stored[name + _INDEX], stored[name + _VALUE] = index, tensor.flatten()[index]
    delta = {
        "foundation": _sha256(foundation),
        "dropped": sorted(base.keys() - weights.keys()),
        "whole": hashlib.sha256(_bytes(described, weights)).hexdigest(),
    }
    content = _bytes(described | {"format": _DELTA, "delta": delta}, stored)
    if WORTH * len(content) > checkpoint.stat().st_size:
        return checkpoint
    path = checkpoint.with_suffix(".delta.safetensors")
    path.write_bytes(content)
    return path


def aligned(described: Mapping[str, Any], weights: Tensors, wanted: Mapping[str, Any]) -> Tensors:
    """The weights of a checkpoint as they are in the elements and heads of another one.

    As they are where the two have the same elements and number of heads, or more than these apart.
    """
    old, new = (it["architecture"] for it in (described, wanted))
    same = old.get("atomic_numbers") == new.get("atomic_numbers") and len(old["heads"]) == len(new["heads"])
    otherwise = {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)} - _TABLES
    if (
        same
        or otherwise
        or described["dtype"] != wanted["dtype"]
        or len(old["heads"]) > 1
        or "network" in old
    ):
        return weights
    if not set(new["atomic_numbers"]) <= set(old["atomic_numbers"]):
        return weights
    from models.potentials import taken

    return taken(described, weights, new)


def comparable(before: torch.Tensor | None, after: torch.Tensor) -> bool:
    """Whether there is a tensor before that has the shape and the type of the one after."""
    return before is not None and before.shape == after.shape and before.dtype == after.dtype


def changed(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Which numbers (n,) of two tensors of one shape and type have other bits; also −0 is not 0."""
    bits = _BITS[after.element_size()]
    return before.reshape(-1).view(bits) != after.reshape(-1).view(bits)


def _read(path: Path, *, weights: bool = True) -> tuple[dict[str, Any], Tensors]:
    try:
        with safe_open(path, framework="pt") as file:
            described = (file.metadata() or {}).get(_METADATA_KEY)
            content = json.loads(described) if described is not None else None
            names = file.keys() if weights else ()
            tensors = {name: file.get_tensor(name) for name in names}
    except Exception as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error
    if not isinstance(content, dict) or "architecture" not in content:
        raise NotACheckpoint(f"{path}: a safetensors file, but not a Temper checkpoint")
    if content["format"] > FORMAT:
        raise CheckpointError(
            f"{path}: checkpoint format {content['format']} is newer than {FORMAT}; update Temper"
        )
    return content, tensors


def _bytes(described: Mapping[str, Any], weights: Tensors) -> bytes:
    return serialised(weights, {_METADATA_KEY: json.dumps(described, sort_keys=True, allow_nan=False)})


def _applied(base: Tensors, stored: Tensors, dropped: list[str], path: Path) -> Tensors:
    """The foundation's tensors with what is stored put in their place."""
    weights = {name: tensor for name, tensor in base.items() if name not in dropped}
    for key, tensor in stored.items():
        if key.endswith(_VALUE):
            name = key.removesuffix(_VALUE)
            index = stored[name + _INDEX].long()
            if name not in base or (len(index) and int(index.max()) >= base[name].numel()):
                raise CheckpointError(
                    f"{path}: changes {name}, which its foundation has not, or not so large"
                )
            weights[name] = base[name].clone().contiguous()
            weights[name].view(-1)[index] = tensor
        elif not key.endswith(_INDEX):
            weights[key] = tensor
    return weights


def _found(sha256: str, path: Path) -> Path:
    """The file with this hash, near a delta or in the box."""
    folder = path.resolve().parent  # a step may have a link to what is in the store
    places = [
        folder / f"{sha256}.safetensors",
        *sorted((folder.parent / sha256[:2]).glob(f"{sha256[2:]}*")),
        *sorted(SHIPPED.glob("*.safetensors")),
    ]
    for place in places:
        if place.is_file() and _sha256(place) == sha256:
            return place
    raise CheckpointError(
        f"{path}: is a change of the foundation with the sha256 {sha256}, which is neither in its store nor "
        f"shipped; put that file beside it as {sha256}.safetensors, or take a whole checkpoint "
        "(temper export writes one)"
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
