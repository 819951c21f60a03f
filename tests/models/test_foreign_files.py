"""Files of strangers: whatever they are called and hold, they run no code and come back as one error."""

import gzip
import os
import pickle
from pathlib import Path

import pytest
from ase import Atoms
from ase.io import write
from ase.io.formats import ioformats

from models import potentials
from models.datasets import DataError, read_structures
from models.external.outputs import read_output

# The reader of cp2k-restart waits for ever for the end of a file that is not its own.
FORMATS = [format_ for name, format_ in ioformats.items() if name != "cp2k-restart"]
NAMES = sorted(
    {f"labels.{ending}" for format_ in FORMATS for ending in (format_.name, *format_.extensions)}
    | {glob.replace("*", "labels") for format_ in FORMATS for glob in format_.globs}
)


class MakesFolder:
    """Unpickling it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("protocol", [0, pickle.HIGHEST_PROTOCOL])
def test_a_pickle_in_place_of_structures_is_not_opened(protocol, tmp_path):
    content = pickle.dumps(MakesFolder(tmp_path / "opened"), protocol)
    assert len(NAMES) > 100
    for name in NAMES:
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(DataError, match="cannot be read as extended XYZ"):
            read_structures(path)
    assert not (tmp_path / "opened").exists()


LIES = {
    "more atoms than any file has": (
        "999999999999\n\nH 0 0 0\n",
        "is of 999999999999 atoms, and the file ends",
    ),
    "more columns than its atoms have": (
        "1\nProperties=species:S:1:pos:R:3:x:R:999999999\nH 0 0 0\n",
        "have fewer columns than its Properties say",
    ),
    "json without an end": ('1\na="_JSON ' + "[" * 100_000 + '"\nH 0 0 0\n', "recursion"),
    "an element of its own": ("1\n\nQq 0 0 0\n", "Qq"),
}


@pytest.mark.timeout(60)  # ASE alone would wait for hours
@pytest.mark.parametrize(("text", "message"), LIES.values(), ids=LIES)
def test_structures_that_lie_are_one_error(text, message, tmp_path):
    path = tmp_path / "labels.extxyz"
    path.write_text(text)
    with pytest.raises(DataError, match=rf"labels\.extxyz: cannot be read as extended XYZ .*{message}"):
        read_structures(path)


def test_an_archive_is_not_unpacked(tmp_path):
    path = tmp_path / "labels.extxyz.gz"
    path.write_bytes(gzip.compress(b"1\n\nH 0 0 0\n"))
    with pytest.raises(DataError, match="cannot be read as extended XYZ"):
        read_structures(path)


@pytest.mark.parametrize("form", ["json", "traj", "vasp", "xyz"])
def test_only_what_is_inside_decides_what_is_read(form, tmp_path):
    """Neither a name nor what looks like another format leads to another reader."""
    write(tmp_path / "made", Atoms("H", cell=[5.0, 5.0, 5.0]), format=form)
    disguised = (tmp_path / "made").rename(tmp_path / "labels.extxyz")
    if form == "xyz":
        assert len(read_structures(disguised)) == 1
        assert len(read_structures(disguised.rename(tmp_path / "labels@0.db"))) == 1
        return
    with pytest.raises(DataError, match="convert it first"):
        read_structures(disguised)


def test_entities_of_xml_do_not_grow(tmp_path):
    path = tmp_path / "vasprun.xml"
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))
    outside = f'<!ENTITY mine SYSTEM "file://{Path(__file__)}">'
    path.write_text(
        f'<!DOCTYPE a [<!ENTITY e0 "{"x" * 100}">{entities}{outside}]><modeling>&e9;&mine;</modeling>'
    )
    (calculation,) = read_output(path)
    assert calculation.failure
    assert "Files of strangers" not in calculation.failure


@pytest.mark.parametrize(
    "described",
    [
        {"network": "../../other"},
        {"network": ["ace"]},
        {"interaction_cls": "os.system"},
        {"hidden_irreps": "__import__('os').system('true')"},
        {"num_elements": "many", "hidden_irreps": "8x0e"},
    ],
)
def test_a_checkpoint_with_nonsense_in_its_header_is_one_error(
    described, tiny_potential, tmp_path, monkeypatch
):
    path = tmp_path / "foreign.safetensors"
    sound = potentials.architecture(tiny_potential.network)
    for content in (described, {**sound, **described}):
        with monkeypatch.context() as patched:
            patched.setattr(potentials, "architecture", lambda _network, content=content: content)
            potentials.save(tiny_potential, path)
        with pytest.raises(potentials.CheckpointError, match=r"foreign\.safetensors: "):
            potentials.load(path)
