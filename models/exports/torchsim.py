"""For torch-sim: the checkpoint, and the class that makes a model of it."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from ase import Atoms

from models.exports.base import ExportError, Format, Source
from models.graphs import Prediction
from models.potentials import load


class TorchSimFormat(Format):
    """A model of torch-sim, which is an optional dependency."""

    name = "torch-sim"

    def write(self, source: Source, folder: Path) -> Path:
        """The checkpoint."""
        if find_spec("torch_sim") is None:
            raise ExportError("torch-sim: is not installed; pip install 'temper-mlip[torch-sim]'")
        return source.checkpoint(folder)

    def evaluate(self, file: Path, structures: Sequence[Atoms]) -> list[Prediction]:
        """With `TorchSimPotential`, one state for each structure."""
        from models.exports.torchsim_model import evaluate

        return evaluate(load(file), structures)

    def usage(self, source: Source, file: str) -> str:
        """A model, for `torch_sim.integrate` and `torch_sim.optimize`."""
        return f"""\
```python
from pathlib import Path

import torch_sim as ts

from models.exports.torchsim_model import TorchSimPotential  # Temper
from models.potentials import load

model = TorchSimPotential(load(Path("{file}")))  # torch.device("cuda") as second argument
state = ts.integrate(
    systems, model, integrator=ts.integrators.nve, n_steps=1000, temperature=300.0, timestep=0.0005  # ps
)
```

`systems` is a list of ASE's Atoms, all periodic or none. States are in float64."""
