"""A gate that waits for a person, in a terminal: the run pauses, and goes on when somebody has decided."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.flow, pytest.mark.slow]  # a minute, and a person's patience


def asked(server: Any) -> tuple[str, str]:
    """The run that waits, and what its dialog says, which comes a moment later."""
    query = {"flow_runs": {"state": {"type": {"any_": ["PAUSED"]}}}}
    deadline = time.monotonic() + 900
    while time.monotonic() < deadline:
        for run in server.post("/flow_runs/filter", query):
            key = run["state"]["state_details"]["run_input_keyset"]["description"]
            for said in server.post(f"/flow_runs/{run['id']}/input/filter", {"prefix": key}):
                return run["id"], json.loads(said["value"])
        time.sleep(0.5)
    raise AssertionError("nobody was asked within 900 s")


def resume(server: Any, run: str, **said: str) -> dict[str, Any]:
    """What the server answers to what a person has filled in."""
    return dict(server.post(f"/flow_runs/{run}/resume", {"run_input": said}))


@pytest.mark.timeout(2400)
def test_what_a_person_decides_against_is_not_promoted_until_it_is_overridden(
    finished: tuple[Any, ...], temper: Callable[..., Any], mini: Path, prefect_server: Any
) -> None:
    command = temper(like=finished[0])
    (before,) = command.ask("SELECT count(*) AS n FROM alias_event WHERE name = 'mini@champion'")
    running = command.start("run", str(mini), "--set", "approval=person")
    run, page = asked(prefect_server)
    assert "**mini@champion** passed the gate" in page
    assert str(command.home / "reports" / "mini.html") in page
    report = (command.home / "reports" / "mini.html").read_text()
    assert "passed the gate and waits for a person to decide" in report

    refused = resume(prefect_server, run, decision="do not promote", by=" ", reason="too soft")
    assert refused["status"] == "REJECT"
    assert "'by'" in refused["details"]["reason"] or "' '" in refused["details"]["reason"]
    accepted = resume(prefect_server, run, decision="do not promote", by="Ada", reason="too soft")
    assert accepted["status"] == "ACCEPT"
    stdout, stderr = running.communicate()
    assert running.returncode == 0, stdout + stderr
    assert "passed the gate, and Ada decided against it; nothing was promoted." in stdout
    assert "champion: Ada decided against it: too soft" in stdout
    assert "Not promoted by Ada: too soft" in (command.home / "reports" / "mini.html").read_text()
    (after,) = command.ask("SELECT count(*) AS n FROM alias_event WHERE name = 'mini@champion'")
    assert after == before

    refused_id = stdout.split("temper promote ")[1].split()[0]
    promoted = command("promote", refused_id, "--by", "Grace", "--reason", "soft enough")
    assert promoted.returncode == 0, promoted.stdout + promoted.stderr
