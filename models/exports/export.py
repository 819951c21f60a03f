"""A checkpoint as a folder of files that other programs run, each tried before the folder appears."""

import hashlib
import json
import platform
import re
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from models.exports import trials
from models.exports.ase import AseFormat
from models.exports.base import ExportError, Format, Source
from models.exports.card import card
from models.exports.lammps import LammpsFormat
from models.exports.torchscript import TorchScriptFormat
from models.exports.torchsim import TorchSimFormat
from models.exports.trials import Deviation
from models.heads import select_head
from models.potentials import Potential, header, load

FORMATS: dict[str, Format] = {
    form.name: form for form in (AseFormat(), TorchScriptFormat(), LammpsFormat(), TorchSimFormat())
}


@dataclass(frozen=True, kw_only=True)
class Made:
    """One export: its file, how it differs from the checkpoint on the trial structures, how to use it."""

    format: str
    file: str
    deviation: Deviation
    usage: str


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What is in a folder, and why formats that nobody asked for by name were left out."""

    folder: Path
    made: Sequence[Made]
    left_out: Sequence[str]


def export(checkpoint: Path, folder: Path, formats: Sequence[str] = (), head: str | None = None) -> Exported:
    """Write `checkpoint` to `folder` in these formats, with a README.md and the same as card.json.

    Without `formats`, in all that can be had. Each is opened again and compared with the checkpoint on trial
    structures; the folder appears once all agree. Raises ExportError on an unknown format or head, on a
    folder that is not empty or cannot be written, and where an export is impossible or says something else;
    CheckpointError where `checkpoint` is none.
    """
    if unknown := [name for name in formats if name not in FORMATS]:
        raise ExportError(f"no format {', '.join(unknown)}; there are {', '.join(FORMATS)}")
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ExportError(f"{folder}: is there already and not an empty folder; name another one")
    source = _source(checkpoint, head)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
            work = Path(scratch) / folder.name
            work.mkdir()
            exported = _written(source, work, formats)
            work.rename(folder)
    except OSError as error:
        raise ExportError(f"{folder}: cannot be written ({error.strerror or error})") from error
    return replace(exported, folder=folder)


def _source(checkpoint: Path, head: str | None) -> Source:
    heads = header(checkpoint)["architecture"]["heads"]
    if head is None and len(heads) > 1:
        raise ExportError(f"{checkpoint}: has the heads {', '.join(heads)}; choose one with --head")
    head = head or heads[0]
    if head not in heads:
        raise ExportError(f"{checkpoint}: no head {head!r}; there is {', '.join(heads)}")
    potential = load(checkpoint)
    level = potential.level_of_theory[head]
    said = potential.provenance
    digest = _sha256(checkpoint)
    name = re.sub(r"[^\w.-]+", "-", str(said.get("name") or checkpoint.stem)).strip("-")
    about = {
        "name": name,
        "level_of_theory": level,
        "licence": said.get("licence", "unknown"),
        "citation": said.get("citation", ""),
        "head": head,
        "elements": potential.symbols,
        "cutoff": potential.cutoff,
        "source_sha256": digest,
        "versions": _versions(),
    }
    alone = Potential(
        network=potential.network if len(heads) == 1 else select_head(potential.network, head),
        level_of_theory={head: level},
        provenance={**said, "exported_from": digest},
    )
    return Source(potential=alone, name=name, about=about)


def _sha256(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("temper-mlip", "torch", "mace-torch", "e3nn", "ase", "torch-sim-atomistic", "lammps"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _written(source: Source, work: Path, formats: Sequence[str]) -> Exported:
    structures = trials.structures(source.potential)
    right = trials.expected(source.checkpoint(work), structures)
    made, left_out = [], []
    for form in (FORMATS[name] for name in formats or FORMATS):
        try:
            if source.potential.magnetic and not form.moments:
                raise ExportError(f"{form.name}: has no place for magnetic moments; export for ase")
            file = form.write(source, work)
            found = form.evaluate(file, structures)
        except ExportError as error:
            if formats:
                raise
            left_out.append(str(error))
            continue
        deviation = trials.compare(form.name, found, right, source.potential.dtype)
        usage = form.usage(source, file.name)
        made.append(Made(format=form.name, file=file.name, deviation=deviation, usage=usage))
    for path in work.iterdir():
        path.chmod(0o644)  # safetensors lets only the owner read
    exported = Exported(folder=work, made=made, left_out=left_out)
    content = {
        **source.about,
        "files": {path.name: _sha256(path) for path in sorted(work.iterdir())},
        "exports": [asdict(one) for one in made],
        "left_out": left_out,
    }
    (work / "card.json").write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
    (work / "README.md").write_text(card(content), "utf-8")
    return exported
