"""The night on a campaign that was really promoted: nothing changed, bytes changed, numbers changed."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from db import aliases, artifacts

pytestmark = pytest.mark.flow


@pytest.fixture
def promoted(finished: tuple[Any, str], temper: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """A home in which the miniature campaign is promoted, free to be damaged; this process reads it too."""
    command = temper(like=finished[0])
    monkeypatch.setenv("TEMPER_HOME", str(command.home))
    return command


def last_run(server: Any) -> dict[str, Any]:
    """The last run of the flow, its artifacts by key, and the alarms it raised."""
    query = {"flows": {"name": {"any_": ["revalidate"]}}, "sort": "START_TIME_DESC", "limit": 1}
    (run,) = server.post("/flow_runs/filter", query)
    shown = server.post("/artifacts/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})
    return {**run, "artifacts": {artifact["key"]: artifact for artifact in shown}}


def alarms(server: Any, run: dict[str, Any]) -> list[dict[str, Any]]:
    """Alarms of a run; events reach the server's database a little later than the run's end."""
    query = {"filter": {"event": {"name": ["temper.revalidation.alarm"]}, "any_resource": {"id": [
        f"prefect.flow-run.{run['id']}"]}}}  # fmt: skip
    deadline = time.monotonic() + 60
    while not (found := server.post("/events/filter", query)["events"]) and time.monotonic() < deadline:
        time.sleep(0.2)
    return list(found)


def test_a_night_in_which_nothing_has_changed(promoted: Any, prefect_server: Any) -> None:
    night = promoted("revalidate", "mini")
    assert night.returncode == 0, night.stdout + night.stderr
    lines = [line for line in night.stdout.splitlines() if line.startswith("mini@")]
    assert lines == [
        "mini@champion: unchanged and as accepted",
        "mini@engine: unchanged and as accepted",
    ]
    run = last_run(prefect_server)
    assert run["state"]["type"] == "COMPLETED"
    assert run["artifacts"]["revalidation"]["description"] == "No alarm"
    measured = json.loads(run["artifacts"]["revalidation-mini-engine"]["data"])
    assert all(row["now"] == pytest.approx(row["accepted"], rel=0.02) for row in measured)
    assert len(promoted.ask("SELECT key FROM step WHERE kind = 'simulate again'")) == 2


def test_a_changed_byte_raises_an_alarm_that_is_seen(promoted: Any, prefect_server: Any) -> None:
    file = artifacts.path(artifacts.find("mini@engine").id)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.chmod(0o600)
    file.write_bytes(content)
    night = promoted("revalidate", "mini")
    assert night.returncode == 1
    finding = f"mini@engine: checkpoint 'mini-student': the bytes of {file} have changed"
    assert night.stderr.splitlines()[-1] == f"Error: {finding}"
    run = last_run(prefect_server)
    assert run["state"]["type"] == "FAILED"
    assert finding in run["state"]["message"]
    page = run["artifacts"]["revalidation"]
    assert page["description"].startswith("Alarm")
    assert f"⚠️ {finding}" in page["data"]
    assert "- mini@champion: unchanged and as accepted" in page["data"]
    (alarm,) = alarms(prefect_server, run)
    assert alarm["resource"]["prefect.resource.name"] == "mini@engine"
    assert alarm["payload"]["findings"] == [finding.removeprefix("mini@engine: ")]


def test_a_number_that_is_not_what_was_accepted_raises_an_alarm(
    promoted: Any, prefect_server: Any, tmp_path: Path
) -> None:
    accepted = json.loads(artifacts.path(artifacts.find("mini@champion-acceptance").id).read_text())
    accepted["figures"]["accuracy.forces"] *= 0.9
    better = tmp_path / "acceptance.json"
    better.write_text(json.dumps(accepted))
    aliases.promote(
        "mini@champion-acceptance", artifacts.import_file(better, "acceptance", "mini").id, reason="by hand"
    )
    night = promoted("revalidate", "mini")
    assert night.returncode == 1
    assert "Error: mini@champion: force MAE, meV/Å (accuracy): was " in night.stderr.splitlines()[-1]
    assert last_run(prefect_server)["state"]["type"] == "FAILED"


def test_a_night_with_nothing_promoted_says_so(temper: Callable[..., Any], prefect_server: Any) -> None:
    night = temper()("revalidate", "mini")
    assert night.returncode == 0, night.stdout + night.stderr
    assert "mini@champion: nothing is promoted" in night.stdout
    assert "mini@engine: nothing is promoted" in night.stdout
    assert "nothing is promoted" in last_run(prefect_server)["artifacts"]["revalidation"]["data"]
