"""Foundation models by name or path, as checkpoints of ours.

`temper-gfn1` ships with the project. The published MACE models are had by name through mace-torch's
own loaders: from its cache where that holds them, else over the network. A path may point to a
Temper checkpoint or to a MACE `.model` file.
"""

import contextlib
import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from models.heads import select_head
from models.potentials import CheckpointError, Network, Potential, from_mace, header, load, save

SHIPPED = Path(__file__).parent / "foundations"


class FoundationError(ValueError):
    """A foundation that cannot be had; the message says what can be done."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published MACE model: which loader has it, and what must be known before using it."""

    loader: str
    model: str
    level_of_theory: str
    licence: str
    citation: str


_MP = "Batatia et al., arXiv:2401.00096"
_MH = "Batatia et al., arXiv:2510.25380"
_OFF = "Kovács et al., arXiv:2312.15211"
_ASL = "ASL (academic use only)"


def _mp(name: str, level: str, licence: str, citation: str = _MP) -> Published:
    return Published(loader="mace_mp", model=name, level_of_theory=level, licence=licence, citation=citation)


PUBLISHED: dict[str, Published] = {
    **{n: _mp(n, "PBE+U (MPtrj)", "MIT") for n in (
        "small", "medium", "large", "small-0b", "medium-0b",
        "small-0b2", "medium-0b2", "large-0b2", "medium-0b3",
    )},
    "medium-mpa-0": _mp("medium-mpa-0", "PBE+U (MPtrj, sAlex)", "MIT"),
    "small-omat-0": _mp("small-omat-0", "PBE+U (OMat24)", _ASL),
    "medium-omat-0": _mp("medium-omat-0", "PBE+U (OMat24)", _ASL),
    "mace-matpes-pbe-0": _mp("mace-matpes-pbe-0", "PBE (MatPES)", _ASL),
    "mace-matpes-r2scan-0": _mp("mace-matpes-r2scan-0", "r2SCAN (MatPES)", _ASL),
    "mh-0": _mp("mh-0", "several heads", _ASL, _MH),
    "mh-1": _mp("mh-1", "several heads", _ASL, _MH),
    **{f"off-{size}": Published(
        loader="mace_off", model=size, licence=_ASL, citation=_OFF,
        level_of_theory="ωB97M-D3(BJ)/def2-TZVPPD",
    ) for size in ("small", "medium", "large")},
}  # fmt: skip


def shipped() -> dict[str, Path]:
    """The foundations in the box, by name."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.safetensors"))}


def shipped_replay() -> Path:
    """Structures of every family that the shipped foundation knows, labelled at its level."""
    return SHIPPED / "replay.extxyz"


def known_names() -> list[str]:
    """Every name that `resolve` understands."""
    return [*shipped(), *PUBLISHED]


def locate(name: str) -> Path | None:
    """The file of a shipped foundation or a path; None for a published model.

    Raises FoundationError where `name` is neither known nor a file.
    """
    path = shipped().get(name, Path(name))
    if path.is_file():
        return path
    if name not in PUBLISHED:
        raise FoundationError(
            f"foundation {name!r} is neither a file nor known; known: {', '.join(known_names())}"
        )
    return None


def describe(name: str) -> dict[str, Any] | None:
    """The header of a foundation that is a Temper checkpoint, read without its weights; else None."""
    path = locate(name)
    return header(path) if path is not None and path.suffix == ".safetensors" else None


def resolve(name: str, head: str | None = None) -> Potential:
    """The foundation `name` with one head, ready to be fine-tuned.

    `name` is one of `known_names()` or a path. `head` is needed where the model has several. Raises
    FoundationError with one clear message where it cannot be had.
    """
    path = locate(name)
    if path is not None and path.suffix == ".safetensors":
        try:
            potential = load(path)
        except CheckpointError as error:
            raise FoundationError(str(error)) from error
    elif path is not None:
        provenance = {"name": path.name, "licence": "as its author says"}
        potential = _converted(_unpickled(path), name, "as its author says", provenance)
    else:
        potential = _published(name, PUBLISHED[name])
    return _one_head(potential, name, head)


def save_resolved(name: str, head: str | None, work: Path) -> Path:
    """`resolve` to the file `foundation.safetensors`."""
    path = work / "foundation.safetensors"
    save(resolve(name, head), path)
    return path


def _one_head(potential: Potential, name: str, head: str | None) -> Potential:
    if head is None and len(potential.heads) == 1:
        return potential
    if head not in potential.heads:
        raise FoundationError(
            f"foundation {name!r} has the heads {', '.join(potential.heads)}: set foundation.head to one"
        )
    return Potential(
        network=select_head(potential.network, head),
        level_of_theory={head: potential.level_of_theory[head]},
        provenance=potential.provenance,
    )


def _unpickled(path: Path) -> Network:
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:
        raise FoundationError(f"{path}: not a MACE model file ({error})") from error


def _published(name: str, entry: Published) -> Potential:
    from mace.calculators import foundations_models

    try:
        # The loaders print; what they say belongs into the error or nowhere.
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loader = getattr(foundations_models, entry.loader)
            network = loader(model=entry.model, device="cpu", return_raw_model=True)
    except Exception as error:
        reason = error.__cause__ or error
        raise FoundationError(
            f"foundation {name!r} is not in mace-torch's cache and could not be downloaded ({reason}). "
            "Go online once, copy the model file into the cache, or give a path"
        ) from error
    provenance = {"name": name, "licence": entry.licence, "citation": entry.citation}
    return _converted(network, name, entry.level_of_theory, provenance)


def _converted(network: Network, name: str, level_of_theory: str, provenance: Mapping[str, str]) -> Potential:
    """A MACE model as a potential of ours, in float32, in which we train whatever it came in."""
    try:
        return from_mace(network, level_of_theory=level_of_theory, provenance=provenance, dtype=torch.float32)
    except CheckpointError as error:
        raise FoundationError(f"foundation {name!r}: {error}") from error
