import numpy as np
import pytest

from models import potentials
from models.validation.base import Subject
from models.validation.changes import Changes


@pytest.fixture
def subject(tiny_foundation):
    return Subject(potential=potentials.load(tiny_foundation), files={"foundation": tiny_foundation})


def test_a_sparse_change_is_shown_with_its_pattern(subject):
    skip = subject.potential.network.interactions[0].skip_tp.weight.data
    skip[np.random.default_rng(0).choice(skip.numel() // 3, 40, replace=False)] += (
        0.1  # paths of l = 0 are first
    )
    found = Changes().measure(subject)
    n_weights = sum(p.numel() for p in subject.potential.network.parameters())
    assert found.figures["share"].value == pytest.approx(100 * 40 / n_weights)
    titles = {plot.title: plot for plot in found.plots}
    shares, chance = titles["By degree"].lines
    assert chance.name == "by chance"
    assert shares.y[0] > chance.y[0]
    assert shares.y[1] < chance.y[1]
    table, layers = found.tables
    assert dict(zip(layers.columns, layers.rows[0], strict=True))["changed, %"] == 0.0
    assert any(row[1].endswith("*") and row[0] == "degree" for row in table.rows)
    assert found.notes[0] == f"40 of {n_weights} weights are not the foundation's."


def test_of_a_dense_change_and_of_none_there_is_no_pattern(subject):
    nothing = Changes().measure(subject)
    assert nothing.figures["share"].value == 0.0
    assert "nothing changed" in nothing.notes[-1]
    for parameter in subject.potential.network.parameters():
        parameter.data += 1.0
    dense = Changes().measure(subject)
    assert dense.figures["share"].value == 100.0
    assert list(dense.plots) == []
    assert {row[2] for row in dense.tables[0].rows} == {100.0}
    assert "more than 50 % changed" in dense.notes[-1]
