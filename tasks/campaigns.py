"""The campaign file."""

from prefect import task

from models.campaign import Campaign, load_campaign


@task(task_run_name="campaign-{name}")
def read_campaign(
    name: str, labels: str | None, level_of_theory: str | None, foundation: str | None, seed: int | None
) -> Campaign:
    """The validated campaign with its overrides (see `models.campaign.load_campaign`)."""
    return load_campaign(
        name, labels=labels, level_of_theory=level_of_theory, foundation=foundation, seed=seed
    )
