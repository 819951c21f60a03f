from dataclasses import replace

import yaml

from models.report_card import model_card


def test_a_card_says_what_a_user_of_the_model_has_to_know(data):
    card = model_card(data, data.acceptances[1])
    head = yaml.safe_load(card.split("---\n")[1])
    assert head["license"] == "cc-by-4.0"
    assert head["library_name"] == "mace-torch"
    assert head["model_name"] == "nacl-engine"
    for wanted in (
        "# nacl: engine",
        'MACECalculator(model_paths="nacl-engine.model"',
        "| labels | GFN2-xTB | train 1480, test 120 | CC-BY-4.0 | `3f9a3f9a3f9a` |",
        "| what holes.share means | 12.5 % [11.2, 13.8] | ≤ 5 % | **missed** |",
        "| Errors on the target | force MAE, meV/Å | 50.0 | 45.0 to 60.0 |",
        "- Missed: what conservation.drift means, – where ≤ 5 % was asked for (could not be measured).",
        "- Could not be measured: stress MAE (Errors on the target).",
        "- torch: 2.13.0",
        "- seed of split: 0",
        "@misc{temper, note = {cite me}}",
    ):
        assert wanted in card
    several = model_card(replace(data, licences=["MIT", "ASL (academic)"]), data.acceptances[0])
    assert yaml.safe_load(several.split("---\n")[1])["license_name"] == "MIT and ASL (academic)"
    assert "- Not checked: crystals (there is nothing for crystals)." in several
