"""The SN2 example: methyl halides and halide anions, X⁻ + CH3Y → CH3X + Y⁻, at GFN2-xTB.

The labels come from the two sides of the reactions alone; the transition states stand only in the paths
that an acceptance compares barriers with.

Run `python -m models.systems.sn2 --out deployments/campaigns/sn2` to make all files again.
"""

import numpy as np
from ase import Atoms
from ase.mep import NEB
from ase.optimize import FIRE

from models.reference.base import labelled_copy
from models.reference.xtb import Method, calculator
from models.systems.labelling import Part, make_files, minimum, settled, snapshots
from models.systems.molecules import methyl_halide_complex

METHOD: Method = "GFN2-xTB"
TEMPERATURES = (200.0, 300.0)  # K
FRAMES = 5
IMAGES = 9

# (bound halogen, halide anion) of the complexes that are labelled, one trajectory per temperature.
COMPLEXES = (("Cl", "Cl"), ("Br", "Br"), ("Cl", "Br"), ("Br", "Cl"), ("F", "Cl"), ("F", "Br"))
REACTIONS = (("Cl", "Cl"), ("Br", "Br"), ("Br", "Cl"))  # (leaving, entering)


def ion_dipole_complex(bound: str, anion: str) -> Atoms:
    """[Y···CH3–X]⁻: a methyl halide and an anion behind its carbon; charge −1 in its info."""
    atoms = methyl_halide_complex(bound, anion, -1.5)
    atoms.info["charge"] = -1
    return atoms


def _labelled(index: int) -> list[Atoms]:
    bound, anion = COMPLEXES[index // len(TEMPERATURES)]
    temperature = TEMPERATURES[index % len(TEMPERATURES)]
    atoms = settled(ion_dipole_complex(bound, anion), METHOD, fmax=0.05, steps=200)
    frames = snapshots(
        atoms,
        temperature,
        np.random.default_rng([1, index]),
        time_step=0.5,
        friction=0.02,
        equilibrate=300.0,
        frames=FRAMES,
        interval=50.0,
    )
    for frame in frames:
        frame.info |= {"trajectory": f"t{index:02d}", "family": "sn2", "temperature": temperature}
        frame.info["complex"] = f"{anion}-CH3{bound}"
    return frames


def _ends(leaving: str, entering: str) -> tuple[Atoms, Atoms]:
    """The relaxed complexes before and after the exchange, with the atoms in one order."""
    before = settled(ion_dipole_complex(leaving, entering), METHOD)
    after = methyl_halide_complex(leaving, entering, 1.5)
    after.info["charge"] = -1
    after = settled(after, METHOD)
    name = f"{entering}-CH3{leaving}"
    return minimum(before, f"{name} before"), minimum(after, f"{name} after")


def _minima(index: int) -> list[Atoms]:
    return list(_ends(*REACTIONS[index]))


def _path(index: int) -> list[Atoms]:
    """The minimum-energy path of one reaction by the climbing-image nudged elastic band."""
    leaving, entering = REACTIONS[index]
    before, after = _ends(leaving, entering)
    images = [before.copy() for _ in range(IMAGES - 1)] + [after.copy()]
    for image in images:
        image.calc = calculator(METHOD, charge=-1)
    band = NEB(images, k=1.0, climb=True, method="improvedtangent", remove_rotation_and_translation=True)
    band.interpolate("idpp")
    if not FIRE(band, logfile=None).run(fmax=0.02, steps=2000):
        raise ValueError(f"{leaving}, {entering}: the band has not converged")
    frames = [labelled_copy(image) for image in images]
    for k, frame in enumerate(frames):
        del frame.info["name"]
        frame.info |= {"path": f"{entering}-CH3{leaving}", "image": k}
    return frames


def main() -> None:
    make_files(
        __doc__,
        {
            "labels": Part(make=_labelled, n=len(COMPLEXES) * len(TEMPERATURES)),
            "minima": Part(make=_minima, n=len(REACTIONS)),
            "paths": Part(make=_path, n=len(REACTIONS)),
        },
    )


if __name__ == "__main__":
    main()
