"""What a report shows of active rounds, read from the record."""

from collections.abc import Mapping
from typing import Any

from prefect import task
from prefect.artifacts import create_table_artifact

from db import artifacts
from models.campaign import Campaign
from models.rounds import FIGURE
from tasks.display import display
from tasks.records import read

_ARMS = {"selected": "selected labels", "control": "random labels"}


def of_rounds(campaign: Campaign, course: Mapping[str, Any]) -> dict[str, Any]:
    """All rounds of a campaign: what they cost, what came, and what it did to the error on the test set."""
    last = course["rounds"][-1]
    calibrations = [read(one["calibration"]) for one in course["rounds"] if one["calibration"]]
    asked = [t.at_most for t in campaign.gate if t.figure == FIGURE and t.relative_to is None]
    gain = course["gain"]
    return {
        "rows": [_row(one, course["rounds"][k - 1] if k else None) for k, one in enumerate(course["rounds"])],
        "stopped": course["stopped"],
        "gain": gain and {key: gain[key] for key in ("ratio", "interval")},
        "arms": [
            {
                "name": name,
                "labels": _size(last["merged"][arm]) + _size(last["valid"]),
                **_forces(read(gain["findings"][arm])),
            }
            for arm, name in _ARMS.items()
            if gain
        ],
        "asked": min((limit for limit in asked if limit is not None), default=None),
        "stated": calibrations[-1]["coverage"] if calibrations else None,
        "plots": [one["plot"] for one in calibrations[-1:]],
    }


@task(name="summarise rounds", task_run_name="summarise-rounds")
def summarise_rounds(campaign: Campaign, course: Mapping[str, Any]) -> list[dict[str, str]]:
    """One row for every round, as text."""
    rows = [
        {
            "round": str(row["number"]),
            "labels": str(row["labels"]),
            "new": str(row["new"]),
            "failed": str(row["failed"]),
            "doubtful": str(row["doubtful"]),
            "forces, meV/Å": f"{row['forces']:.1f}",
            "gate": "holds" if row["passed"] else "does not hold",
        }
        for row in of_rounds(campaign, course)["rows"]
    ]
    display(
        create_table_artifact,
        table=rows,
        key="campaign-rounds",
        description=f"Labels and force errors on the test structures after every round; {course['stopped']}",
    )
    return rows


def _row(one: Mapping[str, Any], before: Mapping[str, Any] | None) -> dict[str, Any]:
    """A round; its uncertainty is that of the specialist from before, which explored."""
    accepted = read(one["acceptance"])
    kind = FIGURE.partition(".")[0]
    doubtful = read(one["merged"]["tally"])["doubtful"] if one["merged"] else []
    return {
        "number": one["number"],
        "labels": _size(one["train"]) + _size(one["valid"]),
        "new": len(one["labels"]) if before else 0,
        "failed": len(one["failures"]),
        "doubtful": sum(doubt["round"] == one["number"] for doubt in doubtful),
        **_forces(read(accepted["findings"][kind])),
        "passed": accepted["passed"],
        "coverage": read(one["calibration"])["observed"] if one["calibration"] else None,
        "cpu_hours": one["cpu_hours"] if before else None,
    }


def _forces(finding: Mapping[str, Any]) -> dict[str, Any]:
    figure = finding["figures"][FIGURE.partition(".")[2]]
    return {"forces": figure["value"], "forces_interval": figure["interval"]}


def _size(dataset: str) -> int:
    return int(artifacts.get(dataset).metadata["n_structures"])
