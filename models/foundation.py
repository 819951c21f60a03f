"""Foundation models by name or path, as checkpoints of ours.

`temper-gfn1` ships with the project. The published MACE models are had by name from mace-torch's cache,
and downloaded into it where they are not there. A path may point to a Temper checkpoint or to a MACE
`.model` file.

A `.model` file is a pickle: opening it runs the code in it. None is opened before its sha256 is found to be
one that ships with Temper, or one that somebody vouches for.
"""

import contextlib
import hashlib
import io
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch

from models.checkpoints import SHIPPED as SHIPPED
from models.heads import select_head, with_elements
from models.potentials import CheckpointError, Network, Potential, from_mace, header, load, save


class FoundationError(ValueError):
    """A foundation that cannot be had; the message says what can be done."""


class Untrusted(FoundationError):
    """A pickle that nobody vouches for, so that it is not opened; the message says how to allow it."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published MACE model: where mace-torch has it from, and what must be known before using it.

    `sha256` is that of the one file that is opened unasked; None where it is not known well enough.
    """

    family: str
    model: str
    level_of_theory: str
    licence: str
    citation: str
    sha256: str | None


_MP = "Batatia et al., arXiv:2401.00096"
_MH = "Batatia et al., arXiv:2510.25380"
_OFF = "Kovács et al., arXiv:2312.15211"
_ASL = "ASL (academic use only)"


# Upstream publishes no checksums with its releases. Each of these was recorded by at least two projects that
# have nothing to do with each other, of the file at the address that mace-torch downloads from. For mh-0 and
# medium-omat-0 only one such record was found.
_SHA256 = {
    "small": "2ddb079cee0e131eaaf6912ba581b394551ead283e95c99cfe78c605d10b5736",
    "medium": "01bfe22100139f424713cf921144e5509cbe353d67aa9fa1be9c6e1e0ed35845",
    "large": "f80e992b65ab8f88fdf26964511357c022e92704e4d9bcd086652635a8495b32",
    "small-0b": "7e3a0abcaf41e03a80e69f778e1b11b29de1cca704783dc25917a736392f8cf0",
    "medium-0b": "ab8baff639a8f295f3eccad3d3ccf574efb6fb63220bd52cd88664211569e521",
    "small-0b2": "d5773bf9440e96d6eb8c598f84bd0e6369fcfa432f626a87f890e07da3c651c9",
    "medium-0b2": "a90be07c8aa6623c390fcc4653d3e319c4a356f8b4a53d323f96b2012d375caf",
    "large-0b2": "348390e758e1c90011c7675e864850f8e9c5b3e7c217f79a2b4bad1baaa657ad",
    "medium-0b3": "2f2be696351ac9e94fbe01cdfb6f017679acdbd2db7645209ef55fec9826b012",
    "medium-mpa-0": "75428afe3a1d7d8062e19bcaabd5c433623cabf308242ec9fb493e38604fb638",
    "small-omat-0": "0abfde07862cf1e93b8b4d03cb702f29ce9c344ff2fc4de2ec0d7166d6c113a5",
    "mace-matpes-pbe-0": "e618ad582b84239905b9c3b77ce6e9ce111b0ecd1533223a1a6aac7a696b8aa0",
    "mace-matpes-r2scan-0": "8f147ecffa1d06a696e5648b13b81abda9c96fda9d0fb3faba3cd3fb27d9bba9",
    "mh-1": "a522eb7f59c7879963d41586528f4980baf33e086c94aa92e3eafdeccad3be47",
    "off-small": "165cce4cfec5a34b9c64d4ebf95de15d71106bb584b7291c8470f0749977c46f",
    "off-medium": "4842c52ad210d6e1f84d6cf1ffa70fae25a7e0d755ed55cf223f43913f587db7",
    "off-large": "a29e397dbf3e7a24ac50a9b0dfc919bd5a62efa346f5895a6237b0950c1d76f4",
}


def _mp(name: str, level: str, licence: str, citation: str = _MP) -> Published:
    return Published(
        family="mp",
        model=name,
        level_of_theory=level,
        licence=licence,
        citation=citation,
        sha256=_SHA256.get(name),
    )


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
        family="off", model=size, licence=_ASL, citation=_OFF,
        level_of_theory="ωB97M-D3(BJ)/def2-TZVPPD", sha256=_SHA256[f"off-{size}"],
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


def cached(name: str) -> Path:
    """Where mace-torch keeps a published model once it is downloaded."""
    from mace.tools.utils import get_cache_dir

    from models import mace_torch  # noqa: F401  (it imports mace without what that prints)

    entry = PUBLISHED[name]
    file = _address(entry).rsplit("/", 1)[1]
    if entry.family == "mp":
        file = "".join(c for c in file if c.isalnum() or c == "_")
    return Path(get_cache_dir()) / file


def is_pickle(file: Path) -> bool:
    """Whether opening this file would run code in it; a Temper checkpoint is numbers and JSON only."""
    return file.suffix != ".safetensors"


def fetch(name: str) -> Path:
    """The file of a foundation, downloaded where it is published and not in mace-torch's cache; not opened.

    Raises FoundationError where it cannot be had.
    """
    path = locate(name)
    return _downloaded(name) if path is None else path


def admit(name: str, trusted: Callable[[str], bool]) -> str | None:
    """The sha256 that the pickle of foundation `name` may have; None for a Temper checkpoint. Opens nothing.

    `trusted` says of a sha256 whether somebody vouches for it. Only what is published, but not known by its
    sha256, is downloaded for this. Raises Untrusted where nobody does.
    """
    path = locate(name)
    if path is not None and not is_pickle(path):
        return None
    if path is None and (known := PUBLISHED[name].sha256) and not cached(name).is_file():
        return known
    file = fetch(name)
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    _refuse_unless_known(name, file, digest, trusted)
    return digest


def describe(name: str) -> dict[str, Any] | None:
    """The header of a foundation that is a Temper checkpoint, read without its weights; else None."""
    path = locate(name)
    return header(path) if path is not None and not is_pickle(path) else None


def resolve(name: str, head: str | None = None, trusted: str | None = None) -> Potential:
    """The foundation `name` with one head, ready to be fine-tuned.

    `name` is one of `known_names()` or a path. `head` is needed where the model has several. `trusted` is the
    sha256 of a pickle that may be opened besides those that are known (see `admit`). Raises FoundationError
    with one clear message where it cannot be had, Untrusted where it would run code nobody vouches for.
    """
    file = fetch(name)
    if is_pickle(file):
        network = _unpickled(name, file, trusted)
        if locate(name) is None:
            entry = PUBLISHED[name]
            level = entry.level_of_theory
            provenance = {"name": name, "licence": entry.licence, "citation": entry.citation}
        else:
            level = "as its author says"
            provenance = {"name": file.name, "licence": level}
        potential = _converted(network, name, level, provenance)
    else:
        try:
            potential = load(file)
        except CheckpointError as error:
            raise FoundationError(str(error)) from error
    return _one_head(potential, name, head)


def save_resolved(
    name: str,
    head: str | None,
    work: Path,
    trusted: str | None = None,
    adopt: Mapping[str, str] | None = None,
) -> Path:
    """`resolve` to the file `foundation.safetensors`; `adopt`: more elements (see `heads.with_elements`)."""
    path = work / "foundation.safetensors"
    potential = resolve(name, head, trusted)
    try:
        save(with_elements(potential, adopt) if adopt else potential, path)
    except ValueError as error:
        raise FoundationError(f"foundation {name!r}: adopt: {error}") from error
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


def _known(name: str) -> set[str]:
    """The sha256 of the pickles that are opened unasked under this name."""
    if locate(name) is not None:
        return set(_SHA256.values())
    published = PUBLISHED[name].sha256
    return {published} if published else set()


def _refuse_unless_known(name: str, file: Path, digest: str, trusted: Callable[[str], bool]) -> None:
    """Raise Untrusted unless a pickle is one that ships by its sha256, or one that somebody vouches for."""
    known = _known(name)
    if digest in known or trusted(digest):
        return
    published = locate(name) is None
    what = f"is not the published file ({known.pop()})" if published and known else "is a pickle"
    asked = shlex.quote(name if published else str(file.absolute()))
    raise Untrusted(
        f"foundation {name!r}: {file.absolute()} {what}, and opening it would run the code in it. Nobody "
        f"vouches for its sha256 {digest}. If you know where it comes from: temper trust {asked} --reason '…'"
    )


def _unpickled(name: str, file: Path, trusted: str | None) -> Network:
    """The network in a pickle. The bytes that are opened are those whose sha256 was looked at."""
    from models import mace_torch  # noqa: F401  (it imports mace without what that prints)

    content = file.read_bytes()
    _refuse_unless_known(name, file, hashlib.sha256(content).hexdigest(), lambda digest: digest == trusted)
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=False)
    except Exception as error:
        raise FoundationError(f"{file}: not a MACE model file ({error})") from error


def _address(entry: Published) -> str:
    """Where mace-torch has a published model from."""
    from mace.calculators import foundations_models

    urls = {"mp": foundations_models.mace_mp_urls, "off": foundations_models.mace_off_urls}
    return urls[entry.family][entry.model]


def _downloaded(name: str) -> Path:
    """The file of a published model in mace-torch's cache, where its own loaders find it too."""
    from mace.calculators.foundations_models import _urlretrieve_with_timeout

    file = cached(name)
    if file.is_file():
        return file
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
            _urlretrieve_with_timeout(_address(PUBLISHED[name]), str(file))
    except (OSError, HTTPException) as error:
        raise FoundationError(
            f"foundation {name!r} is not in mace-torch's cache and could not be downloaded ({error}). "
            "Go online once, copy the model file into the cache, or give a path"
        ) from error
    return file


def _converted(network: Network, name: str, level_of_theory: str, provenance: Mapping[str, str]) -> Potential:
    """A MACE model as a potential of ours, in float32, in which we train whatever it came in."""
    try:
        return from_mace(network, level_of_theory=level_of_theory, provenance=provenance, dtype=torch.float32)
    except CheckpointError as error:
        raise FoundationError(f"foundation {name!r}: {error}") from error
