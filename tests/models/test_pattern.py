import numpy as np
import pytest
from scipy import stats

from models.graphs import graphs, predict
from models.heads import with_heads
from models.pattern import DEGREE_OF_ELEMENT, LAYER, pattern
from models.potentials import Potential
from models.weight_labels import labels


@pytest.fixture(scope="module")
def known(tiny_potential):
    return labels(tiny_potential.network)


def sizes(potential: Potential) -> dict[str, int]:
    return {name: p.numel() for name, p in potential.network.named_parameters() if p.numel()}


def planted(potential, known, rng, share, dimension=None, wanted=(), background=0.0):
    """Random changes, or changes of the wanted weights alone before a background."""
    masks = {}
    for name, size in sizes(potential).items():
        odds = np.full(size, share)
        if dimension is not None:
            one = known[name].get(dimension)
            inside = (
                np.zeros(size, dtype=bool) if one is None else np.isin(np.array(one.names)[one.codes], wanted)
            )
            odds = np.where(inside, share, background)
        masks[name] = rng.random(size) < odds
    return masks


def test_weights_know_their_degree_path_element_and_channel(tiny_potential, known):
    # 8x0e+8x1o after the first layer, harmonics up to l = 2
    linear = known["interactions.1.linear_up.weight"]
    assert linear["path"].names == ("0e → 0e", "1o → 1o")
    assert np.bincount(linear["degree"].codes).tolist() == [64, 64]
    skip = known["interactions.0.skip_tp.weight"]
    assert skip["element"].names == ("H", "O", "Na", "Cl")
    assert len(set(np.bincount(skip["element"].codes))) == 1
    radial = known["interactions.1.conv_tp_weights.layer2.weight"]
    assert {"0e × 0e → 0e", "0e × 1o → 1o", "1o × 1o → 0e", "1o × 2e → 1o"} <= set(radial["path"].names)
    assert radial["degree"].names == ("l = 0", "l = 1", "l = 2")
    assert len(radial["radial channel"].names) == 8
    assert len(known["interactions.0.conv_tp_weights.layer0.weight"]["radial function"].names) == 6
    contraction = known["products.0.symmetric_contractions.contractions.0.weights_max"]
    assert {"0·0 → 0e", "1·1 → 0e", "2·2 → 0e"} == set(contraction["path"].names)
    for name, given in known.items():
        for one in given.values():
            assert len(one.codes) == sizes(tiny_potential)[name]
            assert one.codes.max() == len(one.names) - 1


def test_weights_of_an_element_matter_to_that_element_alone(tiny_potential, known, salt_water):
    water = salt_water[[atom.index for atom in salt_water if atom.symbol in "OH"]]
    network = with_heads(tiny_potential, {"Default": tiny_potential.e0s()})
    other = Potential(network=network.eval(), level_of_theory={}, provenance={})

    def energy() -> float:
        return predict(other, graphs([water], other))[0].energy

    before = energy()
    for symbol, same in (("Na", True), ("Cl", True), ("O", False)):
        for name, parameter in network.named_parameters():
            if one := known.get(name, {}).get("element"):
                own = one.codes == one.names.index(symbol)
                parameter.data.view(-1)[own] *= 1.5
        assert (energy() == before) == same


def test_changes_planted_in_one_degree_are_found(tiny_potential, known):
    masks = planted(tiny_potential, known, np.random.default_rng(0), 0.1, "degree", ["l = 1"], 0.02)
    found = {group.name: group for group in pattern(masks, known).of("degree")}
    one = found["l = 1"]
    assert one.stands_out
    assert one.adjusted < 1e-6
    assert 1.0 < one.interval[0] < one.enrichment < one.interval[1]
    assert found["l = 0"].enrichment < 1.0 > found["l = 2"].enrichment
    only = planted(tiny_potential, known, np.random.default_rng(0), 0.1, "degree", ["l = 1"])
    found = {group.name: group for group in pattern(only, known).of("degree")}
    assert found["l = 2"].changed == 0
    assert found["l = 2"].interval[0] == 0.0


def test_a_degree_of_single_elements_is_found(tiny_potential, known):
    rng = np.random.default_rng(1)
    masks = planted(tiny_potential, known, rng, 0.03)
    skip = "interactions.0.skip_tp.weight"
    of = {d: np.array(one.names)[one.codes] for d, one in known[skip].items()}
    masks[skip] |= (of["element"] == "Na") & (of["degree"] == "l = 2") & (rng.random(masks[skip].size) < 0.4)
    out = {g.name for g in pattern(masks, known).of(DEGREE_OF_ELEMENT) if g.stands_out and g.enrichment > 1}
    assert out == {"Na, l = 2"}
    alone = pattern(masks, known, elements=["Na"])
    assert alone.weights == sum(
        (one["element"].codes == 2).sum() for one in known.values() if "element" in one
    )
    assert alone.of("degree")[-1].enrichment > 1.5
    others = pattern(masks, known, elements=["H", "O"])
    assert not [g for g in others.of("degree") if g.stands_out]


def test_a_random_mask_is_rarely_taken_for_a_pattern(tiny_potential, known):
    seeds, alarms, covered, tested = 60, 0, 0, 0
    for seed in range(seeds):
        found = pattern(planted(tiny_potential, known, np.random.default_rng(seed), 0.03), known)
        alarms += bool(found.outstanding)
        groups = [group for group in found.groups if group.interval is not None]
        covered += sum(group.interval[0] <= 1.0 <= group.interval[1] for group in groups)
        tested += len(groups)
    # 5 % of all networks at most, and not surprisingly more of them in so many
    assert alarms <= stats.binom.ppf(0.999, seeds, 0.05)
    assert covered >= 0.94 * tested


def test_of_one_layer_the_test_is_fishers():
    masks = {"layer.weight": np.array([True] * 6 + [False] * 14)}
    from models.weight_labels import Labels

    given = {"layer.weight": {"degree": Labels(("l = 0", "l = 1"), np.array([0] * 8 + [1] * 12))}}
    first, second = pattern(masks, given).of("degree")
    tail = stats.hypergeom.sf(5, 20, 8, 6)
    assert first.p == pytest.approx(2 * tail, rel=1e-9)
    assert second.p == pytest.approx(first.p, rel=1e-9)
    assert first.enrichment == pytest.approx(6 / (6 * 8 / 20))
    exact = stats.binomtest(6, 6).proportion_ci(method="exact")
    assert first.interval == pytest.approx((exact.low / 0.4, exact.high / 0.4))
    (layer,) = pattern(masks, given).of(LAYER)
    assert layer.p is None


def test_elements_that_were_not_trained_say_nothing(tiny_potential, known):
    masks = planted(tiny_potential, known, np.random.default_rng(3), 0.05)
    for name, given in known.items():
        if "element" in given:
            masks[name] &= given["element"].codes != 3
    found = pattern(masks, known)
    assert found.left_out == ["Cl"]
    assert {group.name for group in found.of("element")} == {"H", "O", "Na"}
    assert not found.outstanding
