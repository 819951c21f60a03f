import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from flows.cli import app
from models import potentials
from models.foundation import shipped


@pytest.fixture(scope="module")
def specialist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped foundation with other E0s, and other weights where a convolution has l = 2."""
    path = tmp_path_factory.mktemp("diff") / "specialist.safetensors"
    potential = potentials.load(shipped()["temper-gfn1"])
    potentials.set_e0s(potential.network, [[e - 0.25 for e in potential.e0s().values()]])
    with torch.no_grad():
        potential.network.interactions[1].conv_tp_weights.layer2.weight[:10, 128:] += 0.5
    potentials.save(potential, path)
    return path


def called(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["diff", *map(str, arguments)], env={"COLUMNS": "200"})
    return result.exit_code, result.output


def test_what_changed_is_shown_layer_by_layer_and_in_one_line(specialist: Path) -> None:
    code, text = called("temper-gfn1", specialist, "--pattern")
    assert code == 0
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if "weight" in line.split(" ")[0]}
    assert rows["interactions.1.conv_tp_weights.layer2.weight"][:4] == ["9216", "640", "6.94", "0.5"]
    assert rows["readouts.0.linear.weight"][1] == "0"
    assert "Changed: 640 of 252448 weights (0.254 %)." in text
    assert "E0s of head Default, eV: H -0.2500, Li -0.2500" in text
    (degree,) = [line for line in text.splitlines() if line.startswith("degree") and "l = 2" in line]
    assert "l = 2 *" in degree


def test_everything_is_to_be_had_as_json(specialist: Path) -> None:
    code, text = called("temper-gfn1", specialist, "--elements", "Na", "--json")
    assert code == 0
    found = json.loads(text)
    assert (found["changed"], found["weights"]) == (640, 252448)
    assert found["pattern"]["changed"] == 0  # no weight of a convolution belongs to an element
    assert called("temper-gfn1", "temper-gfn1", "--json")[1].count('"changed": 0,') > 20


def test_what_is_no_checkpoint_is_one_line(tmp_path: Path) -> None:
    assert called("temper-gfn1", tmp_path / "missing.safetensors")[0] == 1
