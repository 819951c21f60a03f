"""The night on a campaign that was really promoted: nothing changed, bytes changed, numbers changed."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from db import aliases, artifacts
from waiting import until

pytestmark = pytest.mark.flow


@pytest.fixture
def promoted(finished: tuple[Any, ...], temper: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """A home in which the miniature campaign is promoted, free to be damaged; this process reads it too."""
    command = temper(like=finished[0])
    monkeypatch.setenv("TEMPER_HOME", str(command.home))
    return command


@pytest.fixture
def on_record(tmp_path: Path) -> Callable[..., str]:
    """Put a JSON file on record; its id."""

    def put(content: Mapping[str, Any], kind: str) -> str:
        file = tmp_path / f"{kind}.json"
        file.write_text(json.dumps(content))
        return artifacts.import_file(file, kind, "by hand").id

    return put


def content(name: str) -> dict[str, Any]:
    """What a name stands for, if that is JSON."""
    read: dict[str, Any] = json.loads(artifacts.path(artifacts.find(name).id).read_text(encoding="utf-8"))
    return read


def damage(id_: str) -> Path:
    """Change one byte of a file on record."""
    file = artifacts.path(id_)
    changed = bytearray(file.read_bytes())
    changed[-1] ^= 1
    file.chmod(0o600)
    file.write_bytes(changed)
    return file


def last_run(server: Any) -> dict[str, Any]:
    """The last run of the flow, its artifacts by key."""
    begun = {"start_time": {"is_null_": False}}  # others wait for their night
    query = {"flows": {"name": {"any_": ["revalidate"]}}, "flow_runs": begun}
    query |= {"sort": "START_TIME_DESC", "limit": 1}
    (run,) = server.post("/flow_runs/filter", query)
    shown = server.post("/artifacts/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})
    return {**run, "artifacts": {artifact["key"]: artifact for artifact in shown}}


def alarms(server: Any, run: dict[str, Any], number: int) -> list[dict[str, Any]]:
    """So many alarms of a run; events reach the server's database a little later than the run's end."""
    query = {"filter": {"event": {"name": ["temper.revalidation.alarm"]}, "any_resource": {"id": [
        f"prefect.flow-run.{run['id']}"]}}}  # fmt: skip

    def raised() -> list[dict[str, Any]] | None:
        found = server.post("/events/filter", query)["events"]
        return list(found) if len(found) >= number else None

    return until(raised, f"{number} alarms are not raised")


def test_a_night_with_nothing_to_say_says_so_in_one_line(promoted: Any, prefect_server: Any) -> None:
    night = promoted("revalidate", "mini")
    assert night.returncode == 0, night.stdout + night.stderr
    line = "Nothing to report: mini@champion, mini@engine: unchanged and as accepted, bit for bit"
    _, said = night.stdout.split("/runs\n")
    assert " ".join(said.split()) == line
    run = last_run(prefect_server)
    assert run["state"]["type"] == "COMPLETED"
    assert run["state"]["message"] == line
    assert run["name"].startswith("mini 20")
    assert run["artifacts"]["revalidation"]["description"] == "No alarm"
    assert run["artifacts"]["revalidation"]["data"] == f"- {line}"
    measured = json.loads(run["artifacts"]["revalidation-mini-engine"]["data"])
    assert {row["outcome"] for row in measured} == {"the same"}
    assert len(promoted.ask("SELECT key FROM step WHERE kind = 'simulate again'")) == 2


def other_number(on_record: Callable[..., str]) -> None:
    """Let the champion have been accepted with smaller errors than it has."""
    accepted = content("mini@champion-acceptance")
    finding = json.loads(artifacts.path(accepted["findings"]["accuracy"]).read_text(encoding="utf-8"))
    forces = finding["figures"]["forces"]
    forces["value"] *= 0.9
    forces["samples"] = {name: [0.9 * total, weight] for name, (total, weight) in forces["samples"].items()}
    accepted["findings"]["accuracy"] = on_record(finding, "finding")
    better = on_record({**accepted, "night": {"move_back": True}}, "acceptance")
    aliases.promote("mini@champion-acceptance", better, reason="by hand")


def test_damage_and_another_number_raise_alarms_that_are_seen_and_the_last_good_one_comes_back(
    promoted: Any, prefect_server: Any, on_record: Callable[..., str]
) -> None:
    good, accepted = artifacts.find("mini@engine").id, artifacts.find("mini@engine-acceptance").id
    newer = on_record({"weights": 1}, "checkpoint")
    better = {**content("mini@engine-acceptance"), "checkpoint": newer, "night": {"move_back": True}}
    aliases.promote("mini@engine-acceptance", on_record(better, "acceptance"), reason="better")
    aliases.promote("mini@engine", newer, reason="better")
    file = damage(newer)
    other_number(on_record)

    night = promoted("revalidate", "mini")

    assert night.returncode == 1
    said = night.stderr[night.stderr.rindex("Error: ") :].splitlines()
    number = "mini@champion: force MAE, meV/Å (accuracy): was "
    (line,) = (line for line in said if number in line)
    assert "in pairs on " in line
    assert "(worse)" in line
    assert "not moved back: nothing that it stood for earlier is as it was accepted" in line
    finding = f"checkpoint 'by hand': the bytes of {file} have changed"
    moved = f"moved back to {good[:12]}, promoted on "
    (line,) = (line for line in said if f"mini@engine: {finding}; {moved}" in line)
    assert line.endswith(", which is as it was accepted")
    run = last_run(prefect_server)
    assert run["state"]["type"] == "FAILED"
    assert finding in run["state"]["message"]
    page = run["artifacts"]["revalidation"]
    assert page["description"].startswith("Alarm")
    assert f"⚠️ mini@engine: {finding}" in page["data"]
    assert f"⚠️ {number}" in page["data"]
    shown = {alarm["resource"]["prefect.resource.name"]: alarm for alarm in alarms(prefect_server, run, 2)}
    assert set(shown) == {"mini@champion", "mini@engine"}
    alarm = shown["mini@engine"]
    assert alarm["payload"]["findings"][0] == finding
    assert alarm["payload"]["findings"][1].startswith(moved)
    assert artifacts.find("mini@engine").id == good
    assert artifacts.find("mini@engine-acceptance").id == accepted
    last = aliases.history("mini@engine")[-1]
    assert last.reason.startswith("moved back in the night of 20")
    assert last.reason.endswith(finding)
    rows = {row["figure"]: row for row in json.loads(run["artifacts"]["revalidation-mini-champion"]["data"])}
    row = rows.pop("force MAE, meV/Å (accuracy)")
    assert row["outcome"] == "changed"
    assert row["now"] == pytest.approx(row["accepted"] / 0.9)
    assert {other["outcome"] for other in rows.values()} == {"the same"}


def test_a_night_with_nothing_promoted_says_so_after_its_receivers_are_found_to_be_usable(
    temper: Callable[..., Any], prefect_server: Any
) -> None:
    command = temper()
    deaf = replace(command, env={**command.env, "TEMPER_ALARM_WEBHOOK": "https://example.org/s3cret"})
    night = deaf("revalidate", "mini")
    assert night.returncode == 1
    assert "Error: alarms would reach nobody: the webhook's secret has to be" in night.stderr
    assert "s3cret" not in night.stdout + night.stderr
    night = command("revalidate", "mini")
    assert night.returncode == 0, night.stdout + night.stderr
    assert "mini@champion: nothing is promoted" in night.stdout
    assert "mini@engine: nothing is promoted" in night.stdout
    assert "nothing is promoted" in last_run(prefect_server)["artifacts"]["revalidation"]["data"]
