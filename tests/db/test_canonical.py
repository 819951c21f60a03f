import json
from collections import UserDict
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.canonical import canonical, plain
from db.errors import NotCanonical
from db.steps import step_key

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=12
)


def shuffled(value: Any) -> Any:
    """The same value with every mapping in the opposite order and every list a tuple."""
    if isinstance(value, dict):
        return UserDict({key: shuffled(value[key]) for key in reversed(value)})
    return tuple(shuffled(item) for item in value) if isinstance(value, list) else value


def typed(value: Any) -> Any:
    """A form in which 1, 1.0 and True compare as different."""
    if isinstance(value, dict):
        return {key: typed(item) for key, item in value.items()}
    return [typed(item) for item in value] if isinstance(value, list) else (type(value), repr(value))


@given(values)
def test_one_text_for_one_value_whatever_its_order(value: Any) -> None:
    assert canonical(shuffled(value)) == canonical(value)


@given(values)
def test_text_reads_back_exactly(value: Any) -> None:
    assert typed(json.loads(canonical(value))) == typed(value)
    assert typed(plain(value)) == typed(value)


@given(values, values)
def test_keys_differ_exactly_where_parameters_do(one: Any, other: Any) -> None:
    same = step_key("train", 1, {"x": one}, {}) == step_key("train", 1, {"x": other}, {})
    assert same == (typed(one) == typed(other))


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"lr": {"decay": float("nan")}}, "parameters.lr.decay is nan"),
        ({"weights": [1.0, float("inf")]}, r"parameters.weights\[1\] is inf"),
        ({"cutoffs": {1: 5.0}}, "parameters.cutoffs has the key 1"),
        ({"grid": np.zeros(2)}, "parameters.grid is of type ndarray"),
        ({"steps": np.int64(3)}, "parameters.steps is of type int64"),
    ],
)
def test_what_has_no_unambiguous_form_is_refused_by_name(value: Any, place: str) -> None:
    with pytest.raises(NotCanonical, match=place):
        step_key("train", 1, value, {})


def test_numpy_float_is_a_float() -> None:
    assert canonical(np.float64(0.1)) == "0.1"


def test_key_depends_on_everything_that_decides_the_result() -> None:
    keys = [
        step_key("train", 1, {"lr": 0.1}, {"data": ["a", "b"]}, seed=1),
        step_key("label", 1, {"lr": 0.1}, {"data": ["a", "b"]}, seed=1),
        step_key("train", 2, {"lr": 0.1}, {"data": ["a", "b"]}, seed=1),
        step_key("train", 1, {"lr": 0.2}, {"data": ["a", "b"]}, seed=1),
        step_key("train", 1, {"lr": 0.1}, {"data": ["b", "a"]}, seed=1),
        step_key("train", 1, {"lr": 0.1}, {"more": ["a", "b"]}, seed=1),
        step_key("train", 1, {"lr": 0.1}, {"data": ["a", "b"]}, seed=2),
        step_key("train", 1, {"lr": 0.1}, {"data": ["a", "b"]}),
    ]
    assert len(set(keys)) == len(keys)
    assert step_key("train", 1, {}, {"data": "a"}) == step_key("train", 1, {}, {"data": ["a"]})


def test_key_stays_the_same_between_versions_of_temper() -> None:
    # Changing this loses every memo on record.
    assert step_key("train", 1, {"lr": 0.1}, {"data": "a"}, seed=1) == (
        "4cecb971d0b280af4cfa077abe4aa20bcfd4843d97349edbad5ff84981caab87"
    )
