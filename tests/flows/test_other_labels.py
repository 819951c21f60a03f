"""The shipped campaign on somebody else's labels, where those are on the machine."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from models.campaign_names import find

pytestmark = pytest.mark.flow

DATA = Path(os.environ.get("TEMPER_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
MP2 = DATA / "nacl_water" / "derived" / "nacl_water_MP2.xyz"


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_the_shipped_campaign_takes_bulk_solutions_at_mp2(temper: Callable[..., Any], tmp_path: Path) -> None:
    if not MP2.is_file():
        pytest.skip("the MP2 labels of NaCl in water are not there (TEMPER_TEST_DATA names their folder)")
    plan = yaml.safe_load(find("nacl").read_text(encoding="utf-8"))
    for section in ("labels", "reference"):
        plan[section]["path"] = str(find("nacl").parent / plan[section]["path"])
    # The same line with less of everything: a bulk structure costs twenty times a droplet.
    for candidate, epochs in zip(plan["candidates"], (4, 2), strict=True):
        candidate["optimisation"]["epochs"] = epochs
    plan["simulation"] |= {"duration": 60.0, "replicas": 2, "save_every": 5}
    plan["checks"] = [{"kind": "accuracy"}, {"kind": "retention"}, {"kind": "dynamics"}]
    del plan["gate"]
    plan["student"] |= {"n_structures": 40}
    plan["student"]["optimisation"]["epochs"] = 6
    file = tmp_path / "nacl.yaml"
    file.write_text(yaml.safe_dump(plan, allow_unicode=True), encoding="utf-8")

    command = temper()
    done = command("run", str(file), "--labels", str(MP2), "--level-of-theory", "MP2")
    assert done.returncode == 0, done.stdout + done.stderr
    levels = {
        row["name"]: json.loads(row["metadata"])["level_of_theory"]
        for row in command.ask("SELECT name, metadata FROM artifact WHERE kind = 'checkpoint'")
    }
    assert levels == dict.fromkeys(("nacl-naive", "nacl-pseudolabelled-replay", "nacl-student"), "MP2")
    changes = {line.split()[0]: line.split()[2] for line in done.stdout.splitlines() if " %" in line}
    assert int(changes["naive"].replace("−", "-")) < -30
