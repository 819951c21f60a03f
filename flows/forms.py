"""The fields of the forms in the browser: each is declared here, once, for every flow that asks for it.

Prefect has two browser interfaces. Both show plain fields, choices and JSON well, and neither shows
unions. So a flow takes a campaign and a few flat values that replace those of its file, and the whole is
validated once.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

AS_IN_FILE: Literal["as in the file"] = "as in the file"
"""The choice that leaves a value to the campaign file."""

E0s = Literal["as in the file", "estimated", "isolated_atoms", "foundation", "average"]
Student = Literal["as in the file", "small_mace", "painn", "ace"]
Approval = Literal["as in the file", "gate", "person"]


def field(default: Any, title: str, description: str, **constraints: Any) -> Any:
    """A field of a form; `...` as its default makes it one that has to be filled in."""
    # Prefect takes the name of the parameter for the title, unless it is said like this.
    return Field(default, description=description, json_schema_extra={"title": title}, **constraints)


CAMPAIGN = field("nacl", "Campaign", "A campaign that ships with Temper, or the path of a YAML file")
MODEL = field(..., "Model", "The path of a .model or a Temper checkpoint, or the name of a foundation")
AGAINST = field(
    "nacl",
    "Against",
    "The campaign whose data, checks and gate are used: a shipped one, or the path of a YAML file",
)
HEAD = field("", "Head", "Which head of the model, where it has several")
TEACHER = field(
    "",
    "Teacher",
    "A checkpoint on record (an alias or the beginning of its hash), or the path of a model. "
    "Empty: what the campaign promoted as champion",
)
FOUNDATION = field(
    "", "Foundation", "The model to start from, a name or a path. Empty: the one of the campaign file"
)
LABELS = field(
    "", "Labels", "The path of other labels (extended XYZ) to use. Empty: those of the campaign file"
)
LEVEL_OF_THEORY = field("", "Level of theory", "The level of theory of the labels above, such as MP2/cc-pVTZ")
E0S = field(AS_IN_FILE, "Energies of isolated atoms", "Where the E0s of the labels' level come from")
STUDENT = field(AS_IN_FILE, "Student", "The architecture of the fast student, with its usual settings")
SEED = field(None, "Seed", "The seed of everything random. None: those of the campaign file")
APPROVAL = field(
    AS_IN_FILE,
    "Who promotes",
    "gate: what passes the gate is promoted. person: the run waits after the gate, until somebody has read "
    "the report and decides",
)
FIELDS = field(
    {},
    "Other fields",
    'Other fields of the campaign file by their dotted names, such as {"split.by": "trajectory"}',
)


def chosen(fields: Mapping[str, Any], choices: Mapping[str, Any]) -> dict[str, Any]:
    """`fields` and, by their dotted names too, the choices that are not left to the campaign file."""
    return {**fields, **{name: choice for name, choice in choices.items() if choice != AS_IN_FILE}}
