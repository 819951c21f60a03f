"""One text for one value: the JSON that keys are hashed from."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from db.errors import NotCanonical

JSON: TypeAlias = "Mapping[str, JSON] | Sequence[JSON] | str | int | float | bool | None"


def canonical(value: JSON, name: str = "value") -> str:
    """JSON with sorted keys, no spaces, ASCII only, floats by ``repr`` (so they read back exactly).

    ``1`` and ``1.0`` stay different; a tuple is a list.

    Raises:
        NotCanonical: NaN, infinity, a key that is not a string or any other type; names the field.
    """
    return json.dumps(plain(value, name), sort_keys=True, separators=(",", ":"), allow_nan=False)


def plain(value: JSON, name: str = "value") -> Any:
    """The same value built of dict, list and scalars only, as JSON columns take it.

    Raises:
        NotCanonical: see ``canonical``.
    """
    match value:
        case float() if not math.isfinite(value):
            raise NotCanonical(f"{name} is {value}: only finite numbers can be recorded")
        case None | str() | int() | float():
            return value
        case Mapping():
            for key in value:
                if not isinstance(key, str):
                    raise NotCanonical(f"{name} has the key {key!r}: keys must be strings")
            return {key: plain(item, f"{name}.{key}") for key, item in value.items()}
        case list() | tuple():
            return [plain(item, f"{name}[{index}]") for index, item in enumerate(value)]
        case _:
            raise NotCanonical(
                f"{name} is of type {type(value).__name__}: only strings, numbers, booleans, null, "
                "lists and mappings can be recorded"
            )
