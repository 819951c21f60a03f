"""What every benchmark ends with: its figures as a table and, where asked for, as a JSON file."""

import json
from collections.abc import Iterable
from pathlib import Path


def publish(figures: Iterable[tuple[str, float, str]], file: Path | None) -> None:
    """Print (name, value, unit) line by line; write them to `file` as `[{"name", "value", "unit"}]`."""
    rows = [{"name": name, "value": value, "unit": unit} for name, value, unit in figures]
    for row in rows:
        print(f"{row['name']:44} {row['value']:10.4g} {row['unit']}")
    if file is not None:
        file.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
