"""The run that `soak.py` starts hundreds of: the first steps of a campaign, on clusters of a few atoms."""

from prefect import flow

from db import aliases
from flows.interruptions import go_on, listen
from models.campaign_files import load_campaign
from tasks.datasets import ingest_labels
from tasks.foundation import resolve_foundation
from tasks.training import fine_tune, refit_e0s


@flow(name="soak", flow_run_name="soak-{seed}", on_running=[listen], on_crashed=[go_on])
def soak(campaign: str, seed: int) -> str:
    """Read and split labels, refit E0s and fine-tune, each in a child process of its own, and promote."""
    plan = load_campaign(campaign, seed=seed)
    start = resolve_foundation(plan.foundation)
    data = ingest_labels(plan)
    e0s = refit_e0s(plan, start, data)
    lessons = {"foundation": start, "e0s": e0s, "train": data["train"], "valid": data["valid"]}
    made = fine_tune(plan, plan.candidates[0], lessons)
    aliases.promote(f"soak{seed}@champion", made["checkpoint"], reason="fine-tuned")
    return made["checkpoint"]
