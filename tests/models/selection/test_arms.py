import numpy as np
import pytest

from models.selection import Candidates, Direct, FarthestPoint, Random, Selector
from models.selection.arms import draw


def arms(selector: Selector, pool: Candidates, known: Candidates, seed: int, control: float = 0.25):
    drawn = draw(selector, control, 12, pool, known, np.random.default_rng(seed))
    return {arm: [one.choice.index for one in drawn if one.arm == arm] for arm in ("selected", "control")}


@pytest.mark.parametrize("selector", [FarthestPoint(), Direct(), Random()], ids=repr)
def test_the_arms_are_disjoint_and_new(selector, clusters):
    known = clusters.part(range(5))
    found = arms(selector, clusters, known, 0)
    assert (len(found["selected"]), len(found["control"])) == (9, 3)
    assert len({*found["selected"], *found["control"]}) == 12
    assert min(*found["selected"], *found["control"]) >= 5


def test_the_control_arm_is_chance_whatever_the_selector(clusters):
    known = clusters.part(range(5))
    control = [arms(Random(), clusters, known, seed, 1.0)["control"] for seed in range(100)]
    assert control[:3] == [arms(Direct(), clusters, known, seed, 1.0)["control"] for seed in range(3)]
    counts = np.bincount(np.ravel(control), minlength=60)
    assert not counts[:5].any()
    # 1200 draws of 55: 22 expected each, standard deviation 4.2
    assert 5 < counts[5:].min() <= counts.max() < 42


def test_a_smaller_budget_keeps_the_share_of_the_control_arm(clusters):
    drawn = draw(FarthestPoint(), 0.25, 12, clusters, clusters.part([0]), np.random.default_rng(0))
    by_rank = [one.arm for one in drawn]
    assert [by_rank[k : k + 4].count("control") for k in (0, 4, 8)] == [1, 1, 1]


def test_one_arm_may_be_all_there_is(clusters):
    nothing = clusters.part([])
    assert not arms(FarthestPoint(), clusters, nothing, 0, control=0.0)["control"]
    assert not arms(FarthestPoint(), clusters, nothing, 0, control=1.0)["selected"]
    assert draw(Random(), 0.5, 3, nothing, clusters, np.random.default_rng(0)) == []
    assert draw(Random(), 0.5, 3, clusters, clusters, np.random.default_rng(0)) == []
