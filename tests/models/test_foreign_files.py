"""Files of users are read by formats that run no code, whatever a file is called."""

import contextlib
import os
import pickle
from pathlib import Path

import pytest
from ase.io.formats import ioformats

from models.datasets import DataError, read_structures

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
        with contextlib.suppress(DataError):  # some formats take anything for an empty structure
            read_structures(path)
    assert not (tmp_path / "opened").exists()
