"""Do changes for transition metals gather at l = 2? `python benchmarks/magnetic_pattern.py [--json FILE]`.

A trunk for magnets is made first: temper-gfn1, its new elements copies of Na, fine-tuned on crystals of Mn,
Fe, Co and Ni that CHGNet labels here (extra `chgnet`). It is then fine-tuned sparsely, with energies, forces
and moments: on `gpaw` and `nio`, real labels of magnets, read where the folder of test data has them
(TEMPER_TEST_DATA), and on `nacl`, the shipped droplets, which have no d electrons.

Figures of each set, mean over the seeds: `l2[SET]`, changes of weights of degree 2 over those of a random
mask with as many changes in every layer; `l2[SET, ELEMENT]`, the same of the weights of one element, among
all weights of this element; `seeds_that_stand_out[…]`, in how many of the seeds that is more than chance at
5 %, all groups of the pattern taken together.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean

import torch
from ase import Atoms
from figures import publish
from moments import DATA, SETS, by_trajectory

from models.campaign_files import load_campaign
from models.datasets import read_labels
from models.differences import of_potential
from models.e0s import E0Policy, refit
from models.foundation import resolve
from models.heads import with_elements
from models.pattern import Pattern, pattern
from models.potentials import Potential, load, save
from models.strategies import Naive, Sparse, Strategy, TrainingData
from models.training import Optimisation, fit
from models.weight_labels import labels as weight_labels

ROOT = Path(__file__).parents[1]
METALS = ("Mn", "Fe", "Co", "Ni")
Row = tuple[str, float, str]


def nacl() -> tuple[list[Atoms], list[Atoms]]:
    """Training and validation structures of the shipped campaign, without a transition metal."""
    given = load_campaign("nacl").labels
    frames = read_labels(Path(given.path), given.names, given.units)
    train, valid, _ = by_trajectory(frames, str(given.path))
    return train[:96], valid


def parts(name: str) -> tuple[list[Atoms], list[Atoms]]:
    """Training and validation structures of a set."""
    if name == "nacl":
        return nacl()
    train, valid, _ = next(iter(SETS[name]()))
    return list(train), list(valid)


def fine_tuned(
    start: Potential, strategy: Strategy, train: Sequence[Atoms], valid: Sequence[Atoms]
) -> Potential:
    """The potential that a strategy makes of these structures."""
    e0s = refit(start, train, [], E0Policy()).e0s
    setup = strategy.prepare(start, e0s, TrainingData(train=list(train), valid=list(valid)))
    network = strategy.finish(fit(setup, strategy.optimisation).network)
    return Potential(network=network, level_of_theory={"target": "labels"}, provenance={})


def trunk(path: Path, epochs: int) -> Potential:
    """A foundation that knows the metals, made once and kept in `path`."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        start = with_elements(resolve("temper-gfn1"), dict.fromkeys(METALS, "Na"))
        train, valid = parts("chgnet")
        for atoms in (*train, *valid):
            del atoms.arrays["REF_magmoms"]  # a foundation knows energies and forces
        made = fine_tuned(start, Naive(optimisation=pace(3e-3, epochs, 0)), train, valid)
        save(made, path)
    return load(path)


def pace(rate: float, epochs: int, seed: int) -> Optimisation:
    """The same for all."""
    return Optimisation(
        learning_rate=rate, decay="cosine", ema_decay=0.98, clip_gradient=10.0,
        epochs=epochs, max_edges=1500, seed=seed,
    )  # fmt: skip


def found(name: str, start: Path, share: float, epochs: int, seed: int) -> Pattern:
    """Where a sparse fine-tuning changes weights."""
    train, valid = parts(name)
    sparse = Sparse(trained_share=share, optimisation=pace(1e-1, epochs, seed))
    made = fine_tuned(load(start), sparse, train, valid)
    compared = of_potential(start, made)
    return pattern(compared.changed(), weight_labels(compared.network))


def rows(name: str, patterns: Sequence[Pattern]) -> Iterator[Row]:
    """The figures of a set."""
    names = {g.name: g.dimension for g in patterns[0].groups if g.name.endswith("l = 2")}
    for group, dimension in names.items():
        groups = [
            g for p in patterns for g in p.of(dimension) if g.name == group and g.enrichment is not None
        ]
        if not any(g.changed for g in groups):
            continue
        about = ", ".join([name, *group.split(", ")[:-1]])
        yield f"l2[{about}]", mean(g.enrichment or 0.0 for g in groups), "times chance"
        more = [g for g in groups if g.stands_out and (g.enrichment or 0.0) > 1.0]
        yield f"seeds_that_stand_out[{about}]", len(more), f"of {len(patterns)}"


def main() -> None:
    """Train, count, print the table, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sets", nargs="+", choices=["gpaw", "nio", "nacl"], default=["gpaw", "nio", "nacl"])
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--share", type=float, default=0.03)
    parser.add_argument("--folder", type=Path, default=ROOT / "build/benchmarks/magnetic_pattern")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    start = args.folder / f"trunk-{args.epochs}.safetensors"
    trunk(start, args.epochs)
    published: list[Row] = []
    for name in args.sets:
        if name != "nacl" and not DATA.is_dir():
            print(f"{name}: skipped, {DATA.name} is not there")
            continue
        patterns = [found(name, start, args.share, args.epochs, seed) for seed in range(args.seeds)]
        for seed, one in enumerate(patterns):
            said = [
                f"{g.name} {g.enrichment:.2f} (p {g.adjusted:.1g})" for g in one.of("degree") if g.enrichment
            ]
            print(f"{name}, seed {seed}: {100 * one.share:.2f} % changed; {', '.join(said)}", flush=True)
        published += rows(name, patterns)
    publish(published, args.json)


if __name__ == "__main__":
    main()
