"""A plan: steps, and notes for the administrator. Applying it is idempotent.

Used by the command line. Must not know what the steps are for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from shellrunner.errors import ShellrunnerError
from shellrunner.installation.steps import Step


class PendingStep(NamedTuple):
    """A step that is not done, with its description from before any step was applied."""

    step: Step
    description: str


@dataclass(frozen=True)
class Plan:
    """Steps in order, notes to show afterwards, and the secret of a token that one of the steps creates."""

    steps: Sequence[Step]
    notes: Sequence[str] = ()
    secret: str | None = None

    def pending(self) -> list[PendingStep]:
        """Return the steps that are not done yet. They are all checked before any is applied."""
        return [PendingStep(step, step.describe()) for step in self.steps if not step.is_done()]


def apply(pending: Sequence[PendingStep], report: Callable[[str], None]) -> None:
    """Apply the steps in order, and report each that was applied.

    Raises:
        ShellrunnerError: a step failed; those after it were not applied, and a repetition continues there.
    """
    for step, description in pending:
        try:
            step.apply()
        except OSError as error:
            raise ShellrunnerError(f"cannot {description.splitlines()[0].rstrip(':')}: {error.strerror}") from None
        report(description)
