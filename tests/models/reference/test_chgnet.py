"""CHGNet as a teacher of moments; the real model, where the extra is installed."""

import numpy as np
import pytest
from ase.build import bulk, molecule

from models.datasets import DataError
from models.reference import CALCULATOR
from models.reference.chgnet import Chgnet

pytest.importorskip("chgnet", reason="the extra chgnet is not installed")


def test_labels(tmp_path) -> None:
    iron = bulk("Fe", cubic=True)
    iron.positions[0] += [0.1, 0.0, 0.05]
    label = CALCULATOR.validate_python({"kind": "chgnet"}).label(iron, tmp_path)
    assert label.info["level_of_theory"] == "PBE+U (CHGNet 0.3.0)"
    assert 1.5 < label.arrays["REF_magmoms"].mean() < 3.0
    assert label.arrays["REF_magmoms"].shape == (2,)
    assert np.abs(label.arrays["REF_forces"].sum(axis=0)).max() < 1e-3
    assert label.info["REF_stress"].shape == (6,)


def test_what_it_cannot_label() -> None:
    with pytest.raises(DataError, match=r"structure 0 \(H2O\): not periodic"):
        Chgnet().check([molecule("H2O")])
    charged = bulk("Fe", cubic=True)
    charged.info["charge"] = 2
    with pytest.raises(DataError, match="neutral crystals only"):
        Chgnet().check([charged])
