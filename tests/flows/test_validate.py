"""Any model, measured against a campaign's data and gate."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from models import potentials

pytestmark = pytest.mark.flow


@pytest.fixture
def model(mini: Path, tmp_path: Path) -> Path:
    """The untrained foundation of the miniature campaign, as mace-torch saves models."""
    path = tmp_path / "theirs.model"
    potentials.export_mace(potentials.load(mini.with_name("foundation.safetensors")), path)
    return path


def test_a_foreign_model_is_measured_once_somebody_vouches_for_it(
    model: Path, mini: Path, finished: tuple[Any, ...], temper: Callable[..., Any], prefect_server: Any
) -> None:
    command = temper(like=finished[0])
    before = command.ask("SELECT name, artifact_id FROM alias_event ORDER BY id")
    refused = command("validate", str(model), "--against", str(mini))
    assert refused.returncode == 1
    assert "temper trust" in refused.stderr.splitlines()[-1]

    done = command("validate", str(model), "--against", str(mini), "--trust")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "theirs passed the gate of mini." in done.stdout
    page, figures, card = (
        command.home / "reports" / f"theirs-against-mini{s}" for s in (".html", ".json", ".md")
    )
    assert "energy drift at constant energy" in page.read_text()
    assert "library_name: mace-torch" in card.read_text()
    report = json.loads(figures.read_text())
    accepted, foundation = report["acceptances"]
    assert {measured["kind"] for measured in accepted["checks"]} == {
        *("accuracy", "retention", "distributions", "dynamics", "conservation")
    }
    (relative,) = (v for v in accepted["verdicts"] if v["relative_to"] == "foundation")
    assert relative["value"] == pytest.approx(1.0, rel=1e-5), "it is the foundation"
    assert [measured["kind"] for measured in foundation["checks"]] == ["accuracy"]
    (run,) = prefect_server.post(
        "/flow_runs/filter",
        {"flows": {"name": {"any_": ["validate"]}}, "sort": "START_TIME_DESC", "limit": 1},
    )
    assert run["name"] == "validate-theirs"
    shown = prefect_server.post("/artifacts/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})
    assert "acceptance-theirs" in {artifact["key"] for artifact in shown}

    strict = mini.with_name("demanding.yaml")
    strict.write_text(mini.read_text().replace("at_most: 50.0", "at_most: 0.0001"))
    again = command("validate", str(model), "--against", str(strict))
    assert again.returncode == 1
    assert "theirs did not pass the gate of mini." in again.stdout
    assert "mean earth mover's distance is" in again.stdout.replace("\n", " ")
    assert command.ask("SELECT name, artifact_id FROM alias_event ORDER BY id")[: len(before)] == before
    assert not command.ask("SELECT 1 FROM alias_event WHERE reason LIKE '%acceptance of%' AND id > 20")


def test_a_model_that_lacks_an_element_is_refused_before_anything_is_measured(
    mini: Path, temper: Callable[..., Any], tmp_path: Path
) -> None:
    known = potentials.load(mini.with_name("foundation.safetensors"))
    without_sodium = {
        "num_elements": 3,
        "atomic_numbers": [1, 8, 17],
        "atomic_energies": [[-10.9, -117.9, -124.4]],
    }
    network = potentials.build(potentials.architecture(known.network) | without_sodium)
    potentials.save(replace(known, network=network), tmp_path / "fewer.safetensors")
    command = temper()
    refused = command("validate", str(tmp_path / "fewer.safetensors"), "--against", str(mini))
    assert refused.returncode == 1
    assert "Na" in refused.stderr.splitlines()[-1]
    assert command.ask("SELECT kind FROM step") == []
