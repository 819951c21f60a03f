import numpy as np
import pytest
from pydantic import ValidationError

from models.selection import SELECTOR, Candidates, Direct, FarthestPoint, Novelty, Random, Selector, Threshold

NETWORK = Novelty(environments="network")
ALL = [
    Threshold(apart=1),
    FarthestPoint(),
    FarthestPoint(weighted=True),
    NETWORK,
    Novelty(of="largest"),
    Direct(),
    Random(),
]
NOTHING = Candidates(structures=[], descriptors=[])


def choose(selector: Selector, pool: Candidates, known: Candidates, number: int, seed: int = 0) -> list[int]:
    return selector.select(pool, known, number, np.random.default_rng(seed))


def cluster(index: int) -> int:
    return max(0, index // 4 - 9)


def test_a_campaign_file_names_every_kind():
    for selector in ALL:
        assert SELECTOR.validate_python(selector.model_dump()) == selector
    with pytest.raises(ValidationError, match="at_most has to be above at_least"):
        Threshold(at_least=0.5, at_most=0.2)


@pytest.mark.parametrize("selector", ALL, ids=repr)
def test_every_choice_is_new_and_made_once(selector, clusters):
    known = clusters.part(range(0, 60, 7))
    again = clusters.part([*range(60), *range(60)])
    chosen = choose(selector, again, known, 1000)
    assert len({i % 60 for i in chosen}) == len(chosen)
    assert not {i % 60 for i in chosen} & set(range(0, 60, 7))
    assert len(chosen) == 51 or selector.kind == "novelty"  # which stops where nothing adds information
    assert len(choose(selector, clusters, clusters.part([0]), 5)) == 5
    assert choose(selector, known, known, 5) == []
    assert choose(selector, NOTHING, known, 5) == []
    assert choose(selector, clusters, known, 0) == []


@pytest.mark.parametrize("selector", ALL, ids=repr)
def test_a_moved_turned_and_renumbered_structure_is_not_new(selector, clusters):
    order = [2, 0, 1]
    turned = clusters.structures[0].copy()
    turned.rotate(40.0, (1, 2, 3))
    turned.translate((1.0, 2.0, 3.0))
    copy = Candidates(
        structures=[turned[order]],
        descriptors=[clusters.descriptors[0][order] * (1.0 + 1e-7)],
        uncertainty=np.array([9.0]),
    )
    assert choose(selector, copy, clusters, 1) == []


@pytest.mark.parametrize("selector", ALL, ids=repr)
def test_the_same_seed_gives_the_same_choice(selector, clusters):
    known = clusters.part([0])
    assert choose(selector, clusters, known, 9) == choose(selector, clusters, known, 9)


@pytest.mark.parametrize("selector", [s for s in ALL if s.kind != "direct"], ids=repr)
@pytest.mark.parametrize("n_known", [0, 3])
def test_a_smaller_budget_takes_the_first_of_a_larger_one(selector, n_known, clusters):
    known = clusters.part(range(n_known))
    assert choose(selector, clusters, known, 4) == choose(selector, clusters, known, 12)[:4]


@pytest.mark.parametrize("selector", [s for s in ALL if s.kind != "random"], ids=repr)
def test_neither_the_order_of_the_pool_nor_the_seed_matters(selector, clusters):
    order = np.random.default_rng(5).permutation(60)
    known = clusters.part([0, 1])
    found = choose(selector, clusters.part(order), known, 8, seed=1)
    assert [int(order[i]) for i in found] == choose(selector, clusters, known, 8, seed=2)


@pytest.mark.parametrize("selector", [FarthestPoint(), NETWORK, Direct()], ids=repr)
@pytest.mark.parametrize("labelled", [[], [0, 10, 20]])
def test_every_planted_cluster_is_covered(selector, labelled, clusters):
    missing = set(range(6)) - {cluster(i) for i in labelled}
    chosen = choose(selector, clusters, clusters.part(labelled), len(missing))
    assert {cluster(i) for i in chosen} == missing


def test_direct_prefers_the_crowded_cluster_and_its_middle(clusters):
    first = choose(Direct(), clusters, NOTHING, 6)[0]
    points = np.array([d.mean(axis=0) for d in clusters.descriptors[:40]])
    distances = np.linalg.norm(points - points.mean(axis=0), axis=1)
    assert distances[first] < np.quantile(distances, 0.2)


def test_threshold_takes_the_most_uncertain_within_its_bounds(clusters):
    bounded = Threshold(at_least=0.3, at_most=0.5, apart=1)
    chosen = bounded.choose(clusters, NOTHING, 60, np.random.default_rng(0))
    scores = [c.score for c in chosen]
    assert scores == sorted(scores, reverse=True)
    assert sorted(c.index for c in chosen) == [
        i for i, u in enumerate(clusters.uncertainty) if 0.3 <= u <= 0.5
    ]


def test_threshold_keeps_frames_of_one_walker_apart(clusters):
    structures = [atoms.copy() for atoms in clusters.structures]
    for index, atoms in enumerate(structures):
        atoms.info["walker"] = f"w{index % 2}"
    pool = Candidates(
        structures=structures, descriptors=clusters.descriptors, uncertainty=clusters.uncertainty
    )
    assert choose(Threshold(apart=10), pool, NOTHING, 6) == [59, 58, 39, 38, 19, 18]


def test_threshold_keeps_structures_apart_in_descriptors(clusters):
    chosen = choose(Threshold(apart=1, distance=0.2), clusters, NOTHING, 60)
    assert sorted(cluster(i) for i in chosen) == list(range(6))


def test_an_uncertainty_that_is_needed_has_to_be_there(clusters):
    without = Candidates(structures=clusters.structures, descriptors=clusters.descriptors)
    for selector in (Threshold(), FarthestPoint(weighted=True)):
        with pytest.raises(ValueError, match=f"'{selector.kind}': the structures come without"):
            choose(selector, without, NOTHING, 3)
    assert len(choose(FarthestPoint(), without, NOTHING, 3)) == 3


def test_uncertainty_weighs_distances(planted):
    known = planted(np.zeros((1, 2)))
    points = np.array([[3.0, 0.0], [0.0, -2.0]])
    even = planted(points, seed=1, uncertainty=np.array([0.1, 0.1]))
    uneven = planted(points, seed=1, uncertainty=np.array([0.1, 0.4]))
    assert choose(FarthestPoint(weighted=True), even, known, 1) == [0]
    assert choose(FarthestPoint(weighted=True), uneven, known, 1) == [1]
    assert choose(FarthestPoint(), uneven, known, 1) == [0]


def test_a_missing_element_counts_but_drowns_nothing(planted):
    """Two structures without hydrogen at one place, beside three others that are all far apart."""
    dry = planted(np.zeros((2, 3)), seed=1, symbols="O3")
    wet = planted(5.0 * np.eye(3), seed=2)
    pool = Candidates(
        structures=[*dry.structures, *wet.structures], descriptors=[*dry.descriptors, *wet.descriptors]
    )
    for selector in (FarthestPoint(), NETWORK):
        chosen = choose(selector, pool, NOTHING, 4)
        assert {2, 3, 4} < set(chosen), selector


def test_random_draws_every_structure_equally_often(clusters):
    drawn = np.array([choose(Random(), clusters, NOTHING, 20, seed) for seed in range(90)])
    counts = np.bincount(drawn.ravel(), minlength=60)
    assert 12 < counts.min() <= counts.max() < 50  # 30 expected, standard deviation 4.5
