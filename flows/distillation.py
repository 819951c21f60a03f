"""The order of a distillation: the teacher labels, the student learns, explores, and learns again."""

from collections.abc import Mapping

from models.campaign import Campaign
from tasks.distillation import distil, label_curvature, label_for_student
from tasks.validation import simulate


def teach(campaign: Campaign, teacher: str, data: Mapping[str, str], dynamics: str) -> Mapping[str, str]:
    """Ids of the student's checkpoint and history, from those of its teacher and of the teacher's dynamics.

    `data` has the reference labels `train` and `valid`. In each of the campaign's rounds a shortly taught
    student explores, and its teacher labels what it met.
    """
    plan = campaign.student
    met = [dynamics]
    while True:
        last = len(met) > plan.rounds
        taught = {"train": data["train"]}
        if plan.n_structures:
            taught["teacher_labels"] = label_for_student(campaign, teacher, data["train"], met)
        given = {"teacher": teacher, "valid": data["valid"], **taught}
        for objective in plan.curvatures:
            shown = taught if objective.of == "all" else {"train": data["train"]}
            given[objective.kind] = label_curvature(campaign, objective, teacher, shown)
        student = distil(campaign, given, last=last)
        if last:
            return student
        name = f"student of round {len(met) - 1}"
        met.append(simulate(name, campaign.simulation, student["checkpoint"], data["train"]))
