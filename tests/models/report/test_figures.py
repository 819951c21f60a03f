import json
import re
from dataclasses import replace

import numpy as np
from ase.build import molecule

from models.report import ReportData, from_json, render, to_json
from models.report_checks import Acceptance, Measured
from models.validation.base import Figure, Finding, Line, Plot, shown


def test_a_line_with_a_name_is_drawn_once_where_all_models_agree(data):
    panels = re.findall(r"<svg.*?</svg>", render(replace(data, campaign=None)), re.DOTALL)
    curves, clouds = (next(p for p in panels if f'aria-label="{title}' in p) for title in ("Na–Cl", "NaCl:"))

    def strokes(panel: str) -> list[str]:
        long = re.findall(r'<path d="[^"]{200,}" clip-path="[^"]*" style="([^"]*)"', panel)
        return [match[1] for style in long if (match := re.search(r"stroke: (var\(--[\w-]+\))", style))]

    assert sorted(strokes(curves)) == [
        "var(--ink)",
        "var(--quiet)",
        "var(--series-0)",
        "var(--series-1)",
    ]
    assert "var(--ink)" not in re.sub(r"<text.*?</text>", "", clouds)


def test_words_along_an_axis_stand_at_one_place_for_all_models(accuracy):
    def path(*names: str) -> Measured:
        line = Line(x=list(names), y=[float(len(names))] * len(names))
        plots = [Plot(title="band", x_label="", y_label="THz", lines=[line], kind="points")]
        return replace(accuracy(0.1), finding=Finding(figures={}, plots=plots))

    acceptances = [
        Acceptance(name="one", passed=True, checks=[path("Γ", "X")]),
        Acceptance(name="two", passed=True, checks=[path("X", "L", "Γ")]),
    ]
    (panel,) = re.findall(r"<svg.*?</svg>", render(ReportData(title="x", acceptances=acceptances)), re.DOTALL)
    assert re.findall(r"<text[^>]*>([ΓXL])</text>", panel) == ["Γ", "X", "L"]
    places = re.findall(r'x="([\d.]+)" y="[\d.]+" style="fill: var\(--series', panel)
    assert len(places) == 5
    assert len(set(places)) == 3


def test_what_is_not_finite_is_drawn_as_missing(data, accuracy):
    broken = accuracy(0.03)
    nothing = Line(x=[0.0, 1.0], y=[None, 1e200])
    plots = [
        Plot(title=kind, x_label="", y_label="", kind=kind, log="xy", lines=[nothing])
        for kind in ("line", "points", "bars", "parity")
    ]
    atoms = molecule("H2O")
    atoms.positions[1] = np.nan
    finding = Finding(
        figures={"forces": Figure(value=None)}, plots=plots, structures=[shown(atoms, "gone", "not finite")]
    )
    acceptance = Acceptance(name="x", passed=False, checks=[replace(broken, finding=finding)])
    page = render(from_json(json.loads(to_json(ReportData(title="x", acceptances=[acceptance])))))
    assert page.count(">no values<") == 3
    assert "null,null,null" in page
    assert "NaN" not in page
