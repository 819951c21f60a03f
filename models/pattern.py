"""Where in a network the changes of a sparse fine-tuning lie, and whether chance would put them there.

Each group of weights (a layer, a degree l, a path, an element, …) is compared with a random mask of the same
size: one that changes as many weights of every layer as were changed, but any of them. The number of changes
that fall into a group is then a sum of hypergeometric numbers, one for every layer, so the test is exact.
Layers themselves are compared with a mask over the whole network. p-values are two-sided, and adjusted for
the number of groups (Benjamini & Hochberg, J. R. Stat. Soc. B 57, 289, 1995).
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from models.weight_labels import DIMENSIONS, Labels, TensorLabels

LAYER = "layer"
DEGREE_OF_ELEMENT = "degree of element"
LEVEL = 0.05
FEW = 16  # groups of one dimension: of more only those that stand out are listed
SPARSE = 0.5  # of the weights: a change of more of them has no pattern worth a figure

_LEAST_P = 1e-15  # the precision of the sums
_WIDTH = 12.0  # standard deviations to either side, beyond which nothing is summed
_UNLIKELY = 1e-6  # of no change at all: then an element was not trained


@dataclass(frozen=True, kw_only=True)
class Group:
    """Some of the weights, and how many of them changed.

    Attributes:
        dimension: what they have in common: `layer`, `degree`, `path`, `element`, …
        name: which of them.
        weights, changed: how many there are, and how many of these changed.
        expected: how many would have by chance.
        enrichment: changed over expected, both only where a layer has weights inside and outside the group;
            None where no layer has.
        interval: 95 % of it (Clopper & Pearson, Biometrika 26, 404, 1934; of the changes as draws with
            replacement, which is on the safe side).
        p: of a difference from chance as large as this, at least 1e-15; None as for `enrichment`.
        adjusted: the same for all groups together.
    """

    dimension: str
    name: str
    weights: int
    changed: int
    expected: float
    enrichment: float | None = None
    interval: tuple[float, float] | None = None
    p: float | None = None
    adjusted: float | None = None

    @property
    def share(self) -> float:
        """Of its weights that changed."""
        return self.changed / self.weights

    @property
    def stands_out(self) -> bool:
        """Whether chance would hardly have done it, at a level of 5 % for all groups together."""
        return self.adjusted is not None and self.adjusted <= LEVEL


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """How the changes are spread.

    Attributes:
        weights, changed: trained weights, and those that changed, without those of elements left out.
        left_out: elements none of whose weights changed, though by chance some would have: they were not in
            the data, and say nothing of where training wants to change something.
        groups: dimension by dimension.
    """

    weights: int
    changed: int
    left_out: Sequence[str]
    groups: Sequence[Group]

    @property
    def share(self) -> float:
        """Of the weights that changed."""
        return self.changed / self.weights if self.weights else 0.0

    @property
    def sparse(self) -> bool:
        """Whether there is a pattern to look at: something changed, and not nearly everything."""
        return self.changed > 0 and self.share <= SPARSE

    def of(self, dimension: str) -> list[Group]:
        """The groups of one dimension."""
        return [group for group in self.groups if group.dimension == dimension]

    @property
    def listed(self) -> list[Group]:
        """Every group of the dimensions with few, and those that stand out of the others."""
        return [group for group in self.groups if group.stands_out or len(self.of(group.dimension)) <= FEW]

    @property
    def outstanding(self) -> list[Group]:
        """Those that stand out, the farthest from chance first."""
        found = [group for group in self.groups if group.stands_out]
        return sorted(found, key=lambda g: (g.adjusted or 0.0, -abs(g.changed - g.expected)))


def pattern(
    changed: Mapping[str, np.ndarray],
    labels: Mapping[str, TensorLabels],
    elements: Collection[str] | None = None,
) -> Pattern:
    """The pattern of changed weights: masks (n,) and labels by tensor (see `models.weight_labels`).

    With `elements` only of the weights that belong to one of these.
    """
    # Here, since it takes a third of a second that every command would wait for.
    from scipy.stats import false_discovery_control

    left_out = [] if elements is not None else _untrained(changed, labels)
    masks, kept = {}, {}
    for name, mask in changed.items():
        there = _kept(labels.get(name, {}), mask.size, left_out, elements)
        if there.any():
            masks[name] = mask[there]
            kept[name] = {d: Labels(one.names, one.codes[there]) for d, one in labels.get(name, {}).items()}
    layers = {name.removesuffix(".weight"): (mask.size, int(mask.sum())) for name, mask in masks.items()}
    groups = _compared(LAYER, [layers])
    for dimension in DIMENSIONS:
        strata = [
            _counts(kept[name][dimension], mask) for name, mask in masks.items() if dimension in kept[name]
        ]
        groups += _compared(dimension, strata)
    groups += _compared(
        DEGREE_OF_ELEMENT,
        [
            part
            for name, mask in masks.items()
            if {"degree", "element"} <= kept[name].keys()
            for part in _by_element(kept[name]["element"], kept[name]["degree"], mask)
        ],
    )
    tested = [group.p for group in groups if group.p is not None]
    adjusted = iter(false_discovery_control(tested).tolist() if tested else ())
    return Pattern(
        weights=sum(n for n, _ in layers.values()),
        changed=sum(k for _, k in layers.values()),
        left_out=left_out,
        groups=[g if g.p is None else replace(g, adjusted=next(adjusted)) for g in groups],
    )


_Stratum = Mapping[str, tuple[int, int]]
"""By group: weights, and changed ones, of one layer."""


def _counts(labels: Labels, mask: np.ndarray) -> _Stratum:
    there = labels.codes >= 0
    n, k = (
        np.bincount(labels.codes[chosen], minlength=len(labels.names)) for chosen in (there, there & mask)
    )
    return {name: (int(n[i]), int(k[i])) for i, name in enumerate(labels.names) if n[i]}


def _by_element(element: Labels, degree: Labels, mask: np.ndarray) -> Iterator[_Stratum]:
    """For every element the counts by degree of the weights that belong to it."""
    for number, symbol in enumerate(element.names):
        own = element.codes == number
        counts = _counts(Labels(degree.names, degree.codes[own]), mask[own])
        yield {f"{symbol}, {name}": count for name, count in counts.items()}


def _kept(
    labels: TensorLabels, size: int, left_out: Collection[str], elements: Collection[str] | None
) -> np.ndarray:
    """Which weights (n,) of a tensor are looked at."""
    given = labels.get("element")
    if given is None:
        return np.full(size, elements is None)
    wanted = [(elements is None or name in elements) and name not in left_out for name in given.names]
    kept: np.ndarray = np.array(wanted)[given.codes]
    return kept


def _untrained(changed: Mapping[str, np.ndarray], labels: Mapping[str, TensorLabels]) -> list[str]:
    """Elements without any change where chance would have made some."""
    strata = [_counts(one["element"], changed[name]) for name, one in labels.items() if "element" in one]
    found = []
    for symbol in dict.fromkeys(symbol for stratum in strata for symbol in stratum):
        unlikely, touched = 0.0, False
        for stratum in strata:
            n, k = stratum.get(symbol, (0, 0))
            whole, drawn = _totals(stratum)
            touched |= k > 0
            unlikely += float(_log_probability(np.zeros(1), whole, n, drawn)[0]) if n else 0.0
        if not touched and unlikely < math.log(_UNLIKELY):
            found.append(symbol)
    return found


def _totals(stratum: _Stratum) -> tuple[int, int]:
    return sum(n for n, _ in stratum.values()), sum(k for _, k in stratum.values())


def _compared(dimension: str, strata: Sequence[_Stratum]) -> list[Group]:
    """Every group of a dimension against chance within each of the strata."""
    names = dict.fromkeys(name for stratum in strata for name in stratum)
    return [_group(dimension, name, [s for s in strata if name in s]) for name in names]


def _group(dimension: str, name: str, strata: Sequence[_Stratum]) -> Group:
    expected, telling = 0.0, []
    for stratum in strata:
        n, k = stratum[name]
        whole, drawn = _totals(stratum)
        expected += drawn * n / whole
        if n < whole and 0 < drawn < whole:  # else nothing could be otherwise
            telling.append((whole, drawn, n, k))
    group = Group(
        dimension=dimension,
        name=name,
        weights=sum(s[name][0] for s in strata),
        changed=sum(s[name][1] for s in strata),
        expected=expected,
    )
    if not telling:
        return group
    found, drawn = (sum(row[i] for row in telling) for i in (3, 1))
    chance = sum(drawn * n / whole for whole, drawn, n, _ in telling)
    low, high = _proportion(found, drawn)
    return replace(
        group,
        enrichment=found / chance,
        interval=(low * drawn / chance, high * drawn / chance),
        p=_two_sided([row[:3] for row in telling], found),
    )


def _proportion(found: int, drawn: int) -> tuple[float, float]:
    """The 95 % interval of Clopper and Pearson: quantiles of beta distributions."""
    low = special.betaincinv(found, drawn - found + 1, LEVEL / 2) if found else 0.0
    high = special.betaincinv(found + 1, drawn - found, 1 - LEVEL / 2) if found < drawn else 1.0
    return float(low), float(high)


def _two_sided(strata: Sequence[tuple[int, int, int]], found: int) -> float:
    """Twice the smaller tail of a sum of hypergeometric numbers: of weights, drawn, those of the group."""
    total, start = np.ones(1), 0  # probabilities of start, start + 1, …
    for whole, drawn, n in strata:
        mean = drawn * n / whole
        deviation = math.sqrt(mean * (1 - n / whole) * (whole - drawn) / max(whole - 1, 1))
        reach = _WIDTH * (deviation + 1.0)
        low = max(0, drawn + n - whole, math.floor(mean - reach))
        high = min(n, drawn, math.ceil(mean + reach))
        total = np.convolve(total, np.exp(_log_probability(np.arange(low, high + 1), whole, n, drawn)))
        start += low
    at = found - start
    below = float(total[: max(at + 1, 0)].sum())
    above = float(total[max(at, 0) :].sum())
    return min(1.0, max(_LEAST_P, 2.0 * min(below, above)))


def _log_probability(k: np.ndarray, whole: int, n: int, drawn: int) -> np.ndarray:
    """Of k changes among n of `whole` weights when `drawn` change; scipy.stats takes milliseconds for it."""

    def choose(a: float, b: np.ndarray | int) -> np.ndarray:
        log: np.ndarray = special.gammaln(a + 1) - special.gammaln(b + 1) - special.gammaln(a - b + 1)
        return log

    result: np.ndarray = choose(n, k) + choose(whole - n, drawn - k) - choose(whole, drawn)
    return result
