"""The form in which a part of the record travels: one JSON value."""

from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from db.aliases import NAME

Sha256 = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
Suffix = Annotated[str, StringConstraints(pattern=r"^(\.[^/\\\x00]*)?$", max_length=100)]

EDGES = {"used", "generated"}
"""What a step has that its row has not."""


class Part(BaseModel):
    """Base of what a manifest is made of."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ArtifactPart(Part):
    """An artifact as it is on record."""

    id: Sha256
    kind: str
    name: str
    suffix: Suffix
    size: int = Field(ge=0)
    metadata: dict[str, Any]
    step_key: Sha256 | None
    created_at: AwareDatetime
    created_by: str


class StepPart(Part):
    """A finished step with its edges: role to what it used, in order, and role to what it made."""

    key: Sha256
    kind: str
    version: int
    parameters: dict[str, Any]
    seed: int | None
    attempt: int
    started_at: AwareDatetime
    finished_at: AwareDatetime | None
    seconds: float | None
    software: dict[str, Any]
    host: str
    user: str
    flow_run_id: str | None
    used: dict[str, list[Sha256]]
    generated: dict[str, Sha256]


class AliasPart(Part):
    """What a name stands for."""

    name: Annotated[str, StringConstraints(pattern=f"^{NAME.pattern}$")]
    artifact_id: Sha256
    set_at: AwareDatetime
    set_by: str
    step_key: Sha256 | None
    reason: str


class RetractionPart(Part):
    """A retraction in force."""

    artifact_id: Sha256
    at: AwareDatetime
    by: str
    reason: str


class Record(Part):
    """A part of the record that refers to nothing outside itself."""

    artifacts: list[ArtifactPart]
    steps: list[StepPart]
    aliases: list[AliasPart]
    retractions: list[RetractionPart]

    @model_validator(mode="after")
    def _complete(self) -> "Record":
        artifacts, steps = {part.id for part in self.artifacts}, {part.key for part in self.steps}
        if len(artifacts) < len(self.artifacts) or len(steps) < len(self.steps):
            raise ValueError("it lists something twice")
        named = {part.artifact_id for part in self.aliases} | {part.artifact_id for part in self.retractions}
        for step in self.steps:
            named.update(step.generated.values(), *step.used.values())
        keys = {part.step_key for part in self.artifacts} | {part.step_key for part in self.aliases}
        for missing in sorted(named - artifacts) + sorted(key for key in keys - steps if key):
            raise ValueError(f"it refers to {missing[:12]}, which it does not list")
        return self
