"""What a student learns of its teacher. The union below is the registry and the schema of campaign files."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

import torch
from ase import Atoms
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from torch.nn.utils import parametrize

from models import devices, losses
from models.distillation.features import embedding, n_invariants
from models.distillation.hessians import Products, Sampling
from models.distillation.students import Student
from models.distillation.terms import (
    AtomicEnergiesTerm,
    CurvatureTerm,
    Decay,
    EnergyGradientTerm,
    ForcesTerm,
    NodeFeaturesTerm,
    atomic_energies,
)
from models.evaluation import mean_errors
from models.graphs import batches, collate, edge_counts, graphs
from models.kernels import for_inference
from models.losses import Term
from models.potentials import Network, Potential

_MAX_EDGES = 8000


class Teaching:
    """The teacher at work: what it says of the structures that its student learns from.

    Attributes:
        teacher: the teacher.
        structures: all of `train`, labelled or pseudolabelled.
        products: its Hessian's products with directions, by kind of objective.
        weights: of the labels in the loss.
    """

    def __init__(
        self,
        teacher: Potential,
        structures: Sequence[Atoms],
        valid: Sequence[Atoms],
        products: Mapping[str, Products],
        weights: losses.Weights,
    ) -> None:
        self.teacher, self.structures, self.products, self.weights = teacher, structures, products, weights
        self._valid = valid

    @cached_property
    def outputs(self) -> list[dict[str, torch.Tensor]]:
        """By structure: `forces` (N, 3), `atomic_energies` (N,), `node_features` (N, F) of the teacher."""
        network = for_inference(devices.moved(self.teacher.network))
        weights = next(network.parameters())
        n_features = n_invariants(self.teacher.network)
        items = graphs(self.structures, self.teacher)
        said: list[dict[str, torch.Tensor]] = []
        for run in batches(range(len(items)), edge_counts(items), _MAX_EDGES):
            batch = collate(
                [items[i] for i in run], len(self.teacher.elements), weights.dtype, weights.device
            )
            output = network(batch, compute_force=True)
            found = {
                "forces": output["forces"],
                "atomic_energies": atomic_energies(network, batch, output),
                "node_features": output["node_feats"][:, -n_features:],
            }
            counts = [items[i].n_atoms for i in run]
            parts = {name: tensor.detach().float().cpu().split(counts) for name, tensor in found.items()}
            said += [{name: parts[name][k] for name in parts} for k in range(len(run))]
        return said

    @cached_property
    def errors(self) -> dict[str, float]:
        """The teacher's own errors on the labels that its student is validated on (see `mean_errors`)."""
        e0s = torch.atleast_2d(self.teacher.network.atomic_energies_fn.atomic_energies)
        return mean_errors(self.teacher.network, graphs(self._valid, self.teacher), e0s)


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """A term of the loss, and what the teacher says of each structure for it, by name (N, …)."""

    term: Term | None = None
    of_each: Sequence[Mapping[str, torch.Tensor]] | None = None


def _weight(default: float) -> Any:
    return Field(default, gt=0, description="in the loss, where the labelled forces have 10")


class Objective(BaseModel, ABC):
    """One thing to learn beside the labels; subclasses differ in `kind`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str

    def check(self, student: Student) -> None:
        """Raise ValueError where this cannot be learnt by such a student."""

    @abstractmethod
    def prepare(self, student: Network, teaching: Teaching) -> Lesson:
        """The lesson, for this student; the student may be changed, as `finish` undoes."""

    def finish(self, student: Network) -> None:
        """Leave a plain network."""


class TeacherForces(Objective):
    """The teacher's forces also of the labelled structures."""

    kind: Literal["teacher_forces"] = "teacher_forces"
    weight: float = _weight(10.0)

    def prepare(self, student: Network, teaching: Teaching) -> Lesson:
        """Forces of every structure."""
        said = [{"teacher_forces": one["forces"]} for one in teaching.outputs]
        return Lesson(term=ForcesTerm(self.weight), of_each=said)


class AtomicEnergies(Objective):
    """The teacher's energies of single atoms: a label for every atom in place of one for all of them."""

    kind: Literal["atomic_energies"] = "atomic_energies"
    weight: float = _weight(1.0)

    def prepare(self, student: Network, teaching: Teaching) -> Lesson:
        """Atomic energies of every structure, measured from the student's E0s."""
        own = Potential(network=student, level_of_theory={}, provenance={}).e0s()
        taught = teaching.teacher.e0s()
        said = []
        for one, atoms in zip(teaching.outputs, teaching.structures, strict=True):
            between = torch.tensor([taught[int(z)] - own[int(z)] for z in atoms.numbers])
            said.append({"teacher_atomic_energies": one["atomic_energies"] + between})
        return Lesson(term=AtomicEnergiesTerm(self.weight), of_each=said)


class NodeFeatures(Objective):
    """The teacher's invariant node features, by a trained linear projection ("n2n")."""

    kind: Literal["node_features"] = "node_features"
    weight: float = _weight(100.0)

    def prepare(self, student: Network, teaching: Teaching) -> Lesson:
        """Features of every structure, each divided by its spread, so that none outweighs the others."""
        every = torch.cat([one["node_features"] for one in teaching.outputs])
        mean, spread = every.mean(dim=0), every.std(dim=0).clamp_min(1e-6)
        said = [{"teacher_node_features": (one["node_features"] - mean) / spread} for one in teaching.outputs]
        with torch.random.fork_rng():
            torch.manual_seed(0)
            term = NodeFeaturesTerm(self.weight, n_invariants(student), every.shape[1])
        return Lesson(term=term, of_each=said)


class AtomEmbeddings(Objective):
    """The student's embedding of the elements is a trained linear projection of the teacher's ("a2a")."""

    kind: Literal["atom_embeddings"] = "atom_embeddings"

    def prepare(self, student: Network, teaching: Teaching) -> Lesson:
        """Put the projection in the place of the student's own embedding, as near to it as it can be."""
        module, name = embedding(student)
        known = teaching.teacher.elements
        taught_by, its_name = embedding(teaching.teacher.network)
        table = getattr(taught_by, its_name).detach().view(len(known), -1)
        rows = [known.index(int(z)) for z in student.atomic_numbers]
        projected = _Projected(table[rows].to(getattr(module, name)))
        parametrize.register_parametrization(module, name, projected)
        return Lesson()

    def finish(self, student: Network) -> None:
        """The embedding is a table again."""
        parametrize.remove_parametrizations(*embedding(student), leave_parametrized=True)


class EnergyGradient(Objective):
    """For a student with direct forces: its energy's gradient has to agree with the labelled forces."""

    kind: Literal["energy_gradient"] = "energy_gradient"
    weight: float = _weight(10.0)

    def check(self, student: Student) -> None:
        """See `Objective.check`."""
        if student.conservative:
            raise ValueError(
                f"energy_gradient is for direct forces, and {student.kind}'s are a gradient: leave it out"
            )

    def prepare(self, student: Network, teaching: Teaching) -> Lesson:
        """The term: the labels say all."""
        return Lesson(term=EnergyGradientTerm(self.weight))


class Curvature(Objective):
    """Products of the teacher's Hessian with directions, some of them at each step.

    After arXiv 2501.09009. `difference` takes the student's products from its forces at displaced atoms,
    which costs half of what `exact` does and is for conservative students only. The weight decays once, by
    `decay_factor`, when the student's validation error falls below `margin` times the teacher's own, which
    is looked at with each evaluation of the training: as in the published code (0.5, 1.05, "forces") by
    default; the paper's text has (0.25, 1.0, "energy_and_forces").
    """

    directions: ClassVar[Literal["rows", "probes"]]

    weight: float = _weight(4.0)
    per_step: int = Field(1, ge=1, description="products of each structure in each step")
    stored: int = Field(4, ge=1, description="products of each structure that the teacher labels")
    of: Literal["labelled", "all"] = Field(
        "all", description="structures: those with reference labels, or the teacher's own as well"
    )
    derivative: Literal["difference", "exact"] = "difference"
    displacement: float = Field(0.01, gt=0, description="of the difference, Å")
    decay_factor: float = Field(0.5, gt=0, le=1)
    margin: float = Field(1.05, gt=0)
    judged_by: Literal["forces", "energy_and_forces"] = "forces"
    seed: int = 0

    def check(self, student: Student) -> None:
        """See `Objective.check`."""
        if self.derivative == "difference" and not student.conservative:
            raise ValueError(f"{self.kind} of a student with direct forces needs derivative: exact")

    @property
    def sampling(self) -> Sampling:
        """What the teacher has to label."""
        return Sampling(directions=self.directions, number=self.stored, seed=self.seed)

    def prepare(self, student: Network, teaching: Teaching) -> Lesson:
        """Directions and products of every structure; raises ValueError where the teacher labelled none."""
        products = teaching.products.get(self.kind)
        found = [products.of(atoms) if products else None for atoms in teaching.structures]
        if all(one is None for one in found):
            raise ValueError(f"student.objectives: {self.kind} needs the teacher's labels of products")
        said = []
        for one, atoms in zip(found, teaching.structures, strict=True):
            both = torch.full((2, len(atoms), self.stored, 3), torch.nan)
            if one is not None:
                given = torch.stack(one).transpose(1, 2)
                both[:, :, : given.shape[2]] = given[:, :, : self.stored]
            said.append({f"{self.kind}_directions": both[0], f"{self.kind}_products": both[1]})
        term = CurvatureTerm(
            self.weight,
            name=self.kind,
            per_step=self.per_step,
            displacement=self.displacement if self.derivative == "difference" else None,
            decay=self._decay(teaching),
            seed=self.seed,
        )
        return Lesson(term=term, of_each=said)

    def _decay(self, teaching: Teaching) -> Decay | None:
        if self.decay_factor == 1:
            return None
        weights = {"energy": teaching.weights.energy, "forces": teaching.weights.forces}
        decay = Decay(factor=self.decay_factor, limit=0.0, judged_by=self.judged_by, **weights)
        return replace(decay, limit=self.margin * decay.score(teaching.errors))


class HessianRows(Curvature):
    """Rows of the teacher's Hessian (arXiv 2501.09009)."""

    kind: Literal["hessian_rows"] = "hessian_rows"
    directions: ClassVar = "rows"


class HessianProbes(Curvature):
    """Products of the teacher's Hessian with random signs, for large cells, where a row says little."""

    kind: Literal["hessian_probes"] = "hessian_probes"
    weight: float = _weight(1.0)
    directions: ClassVar = "probes"


AnyObjective = Annotated[
    TeacherForces
    | AtomicEnergies
    | NodeFeatures
    | AtomEmbeddings
    | EnergyGradient
    | HessianRows
    | HessianProbes,
    Field(discriminator="kind"),
]
OBJECTIVE: TypeAdapter[AnyObjective] = TypeAdapter(AnyObjective)


class _Projected(torch.nn.Module):
    """A table of embeddings as a linear projection of another's (elements × channels)."""

    def __init__(self, table: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("table", table)

    def forward(self, projection: torch.Tensor) -> torch.Tensor:
        """The student's table, in the shape that its module keeps it in."""
        table: torch.Tensor = self.table  # type: ignore[assignment]  # torch's modules hold any type
        return (table @ projection).reshape(self.shape)

    def right_inverse(self, own: torch.Tensor) -> torch.Tensor:
        """The projection that comes nearest to the student's own table."""
        self.shape = own.shape
        table: torch.Tensor = self.table  # type: ignore[assignment]
        return torch.linalg.lstsq(table.double(), own.double().view(len(table), -1)).solution.to(own)
