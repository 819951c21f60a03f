"""Which file a campaign's name means; needs none of what a campaign does."""

from pathlib import Path

SHIPPED = Path(__file__).parents[1] / "deployments" / "campaigns"


class CampaignError(ValueError):
    """A campaign that cannot run; the message names the file, the field and what to do."""


def find(name: str) -> Path:
    """The file of a campaign: a path, or the name of one that ships with Temper.

    Raises CampaignError where none has this name. A path may lead nowhere, or where it may not lead.
    """
    given = Path(name)
    if given.suffix in (".yaml", ".yml"):
        return given
    path = SHIPPED / f"{name}.yaml"
    if "/" in name or not path.is_file():
        known = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.yaml")))
        raise CampaignError(f"no campaign named {name!r}; shipped: {known}. A path must end in .yaml")
    return path


def existing(path: Path) -> Path:
    """The path itself; raises CampaignError where no file is there."""
    if not path.is_file():
        raise CampaignError(f"{path}: no such campaign file")
    return path
