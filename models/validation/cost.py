"""What a student is for: how many times faster than its teacher a step of dynamics is."""

from typing import ClassVar, Literal

from pydantic import Field

from models.dynamics.speed import compare_speed
from models.potentials import load
from models.validation.base import Check, Figure, Finding, Quantity, Role, Subject, Table


class Speed(Check):
    """The time of a step of dynamics of the teacher over that of the student."""

    title: ClassVar = "Speed"
    explanation: ClassVar = (
        "How many times faster a step of molecular dynamics is than with the teacher, timed alternately so"
        " that a busy machine slows both alike: all replicas at once, as the acceptance runs them, and one"
        " alone, where the cost is mostly that of calls."
    )
    needs: ClassVar[tuple[Role, ...]] = ("test", "teacher")
    uses: ClassVar[tuple[Role, ...]] = ("reference",)
    quantities: ClassVar = {
        "ratio": Quantity(words="speed over its teacher, all replicas at once", unit="×", better="higher"),
        "single": Quantity(words="speed over its teacher, one replica", unit="×", better="higher"),
    }
    repeatable: ClassVar[bool] = False

    kind: Literal["speed"] = "speed"
    replicas: int = Field(4, ge=1)

    def measure(self, subject: Subject) -> Finding:
        """The median ratio of seven rounds."""
        teacher = load(subject.files["teacher"])
        (start,) = subject.starts(1)
        found = {
            name: compare_speed(teacher, subject.potential, [start] * n)
            for name, n in (("ratio", self.replicas), ("single", 1))
        }
        return Finding(
            figures={name: Figure(value=speed.ratio) for name, speed in found.items()},
            tables=[
                Table(
                    title="One step of dynamics",
                    columns=["replicas", "atoms", "teacher, ms", "student, ms", "ratio"],
                    rows=[
                        [
                            s.n_replicas,
                            s.n_atoms,
                            1e3 * s.seconds_per_step_a,
                            1e3 * s.seconds_per_step_b,
                            s.ratio,
                        ]
                        for s in found.values()
                    ],
                )
            ],
        )
