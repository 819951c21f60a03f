"""What travels from the inputs of a training to its checkpoint."""

from collections.abc import Callable

from tasks.records import Recipe
from tasks.training import heritage


def test_a_checkpoint_inherits_every_licence_and_citation_once(recorded_json: Callable[..., str]) -> None:
    inputs = {
        "foundation": recorded_json({"n": 1}, licence="MIT", citation="A"),
        "train": recorded_json({"n": 2}, licence="CC-BY-4.0; MIT", citation="", level_of_theory="GFN2-xTB"),
        "valid": recorded_json({"n": 3}, licence="proprietary"),
    }
    recipe = Recipe(parameters={}, inputs=inputs, names={"checkpoint": "salt-naive"})
    assert heritage(recipe, ("foundation", "train")) == {
        "name": "salt-naive",
        "level_of_theory": "GFN2-xTB",
        "licence": "CC-BY-4.0; MIT",
        "citation": "A",
    }
