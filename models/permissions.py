"""What campaigns may read and start. Whoever operates this Temper decides it, never a campaign file."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.reference import ReferenceCalculator


class NotPermitted(ValueError):
    """A campaign asks for a file or a program that it is not allowed; the message says how to allow it."""


@dataclass(frozen=True, kw_only=True)
class Permissions:
    """What the operator allows to every campaign.

    Attributes:
        roots: folders from which campaigns may read, besides the folder of the campaign's own file.
        programs: what reference calculators may start, spelled as the campaign spells it.
        from_person: whether what is given beside the campaign file comes from the person who started this
            process, who may read any file anyway, and not from a form or another machine.
    """

    roots: Sequence[Path] = ()
    programs: Collection[str] = ()
    from_person: bool = True

    def check_file(self, file: Path, what: str, *, folder: Path | None = None) -> None:
        """Raise NotPermitted unless `file` is in `folder` or in one of the roots, links followed."""
        real = file.resolve()
        allowed = [root.resolve() for root in (*self.roots, *([folder] if folder else []))]
        if any(real.is_relative_to(root) for root in allowed):
            return
        led = "" if real == file else f", which leads to {real},"
        advice = "give it on the command line, or " if self.from_person else ""
        beside = "copy it beside the campaign file, " if folder else ""
        raise NotPermitted(
            f"{what}: {file}{led} is in no folder that a campaign may read; {beside}{advice}have its folder "
            f"allowed where Temper runs: TEMPER_DATA_ROOTS={real.parent}"
        )

    def check_given(self, name: str, what: str) -> None:
        """Raise NotPermitted where `name` is a file, and neither a person nor a root allows it."""
        if not self.from_person and ("/" in name or Path(name).exists()):
            self.check_file(Path(name), what)

    def check_programs(self, calculator: ReferenceCalculator) -> None:
        """Raise NotPermitted where a calculator would start a program that nobody allowed. Starts nothing."""
        for program in calculator.programs():
            if program not in self.programs:
                raise NotPermitted(
                    f"calculator {calculator.kind}: would start {program!r} with input that the campaign "
                    "writes, and nobody allows that here; where you trust all who start campaigns with it: "
                    f"TEMPER_PROGRAMS={','.join([*self.programs, program])}"
                )
