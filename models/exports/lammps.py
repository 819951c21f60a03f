"""For LAMMPS: a file for `pair_style mliap unified`."""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from ase import Atoms
from mace.calculators.lammps_mliap_mace import LAMMPS_MLIAP_MACE

from models.exports.base import ExportError, Format, Source
from models.exports.ghosts import KokkosData
from models.exports.mliap import LammpsPotential
from models.exports.torchscript import scripted
from models.graphs import Prediction
from models.networks import EdgeNetwork
from models.potentials import architecture, blank, building


class LammpsFormat(Format):
    """The unified Python interface of ML-IAP: mace-torch's own class for a MACE, ours for other networks."""

    name = "lammps"

    def write(self, source: Source, folder: Path) -> Path:
        """The pickle that LAMMPS opens; of a MACE in float64, else in the potential's own type."""
        if source.direct:
            raise ExportError("lammps: this network's forces are not the gradient of its energy")
        path = folder / f"{source.name}.mliap.pt"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's notices of the deprecation of TorchScript
            if isinstance(source.potential.network, EdgeNetwork):
                torch.save(_own(source), path)
            else:
                torch.save(_mace(source), path)
        return path

    def evaluate(self, file: Path, structures: Sequence[Atoms]) -> list[Prediction]:
        """With atoms, ghosts and pairs as LAMMPS with Kokkos has them in one process."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            potential = torch.load(file, weights_only=False)  # written just now
        found = []
        for atoms in structures:
            data = KokkosData(atoms, potential.element_types, 2.0 * potential.rcutfac)
            potential.compute_forces(data)
            found.append(data.prediction(atoms))
        return found

    def usage(self, source: Source, file: str) -> str:
        """The lines of an input file, how LAMMPS is started, and what it needs."""
        own = isinstance(source.potential.network, EdgeNetwork)
        needs = "torch, and Temper (without its dependencies will do)" if own else "mace-torch"
        lines = f"""\
```
units         metal
atom_style    atomic
atom_modify   map yes
newton        on
pair_style    mliap unified {file} 0
pair_coeff    * * {" ".join(source.potential.symbols)}
```

The elements in `pair_coeff` are those of your types of atoms, in their order. LAMMPS has to be built with the
packages ML-IAP and PYTHON and `MLIAP_ENABLE_PYTHON`, and its Python needs {needs}."""
        if own and source.potential.network.layers == 1:
            return f"{lines} It runs with Kokkos and without, on any number of MPI processes."
        kokkos = f"""{lines} It also has to be built with KOKKOS, and is started with

```
lmp -k on -sf kk -pk kokkos newton on neigh half -in in.file
```

(on a GPU `-k on g 1`)"""
        if own:
            return f"{kokkos}, as one MPI process."
        return f"{kokkos}."


def _own(source: Source) -> LammpsPotential:
    potential = source.potential
    script = io.BytesIO()
    torch.jit.save(scripted(potential), script)
    return LammpsPotential(
        script.getvalue(),
        dtype=potential.dtype,
        symbols=potential.symbols,
        e0s=list(potential.e0s().values()),
        cutoff=potential.cutoff,
        layers=potential.network.layers,
        about=source.about,
    )


def _mace(source: Source) -> LAMMPS_MLIAP_MACE:
    potential = source.potential
    network = blank(architecture(potential.network), torch.float64)
    network.load_state_dict(potential.network.state_dict())
    with building(torch.float64):
        export = LAMMPS_MLIAP_MACE(network.eval())
    export.config.allow_cpu = True  # else it would depend on the environment of this process
    export.about = dict(source.about)
    return export
