"""Foundations on record."""

import pytest

from db import artifacts
from models.campaign import FoundationChoice
from models.foundation import FoundationError, shipped
from tasks.foundation import resolve_foundation


def test_the_shipped_foundation_is_recorded_as_it_is() -> None:
    id_ = resolve_foundation.fn(FoundationChoice(name="temper-gfn1"))
    assert artifacts.path(id_).read_bytes() == shipped()["temper-gfn1"].read_bytes()
    artifact = artifacts.get(id_)
    assert artifact.kind == "foundation"
    assert artifact.metadata["level_of_theory"] == "GFN1-xTB"
    assert artifact.metadata["licence"]


def test_a_foundation_that_nobody_knows_is_one_error_with_the_known_ones() -> None:
    with pytest.raises(FoundationError, match=r"'temper-dft'.*known: .*temper-gfn1.*medium"):
        resolve_foundation.fn(FoundationChoice(name="temper-dft"))
