"""Endings: why a job is done, and what each ending means to everybody who reports one.

The one table from which the CLI's words, colours and exit codes, the API's schema, the reference and the tests of
the page follow: a new ending is added here, to the page's `core/labels.js` (which its filter follows), and to the
part that produces it. Standard library only, so that the CLI can import it without pydantic.

Endings are produced by the keeper that witnessed them (`ReportedEnding` of its slot: all but `skipped`, `lost` and
the reserved ones), by `supervisor.verdict` (`lost`, `failed_to_start`), and by the store for jobs of which nothing
was started: `store.units.lifecycle` (`cancelled`), `dependents` and `admission` (`skipped`), `claiming`
(`failed_to_start`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from types import MappingProxyType
from typing import Final


class Ending(StrEnum):
    """Why a job is done. Never guessed: what the kernel reported to a witness, or `lost`."""

    EXITED = "exited"
    SIGNALLED = "signalled"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    OUTPUT_LIMIT = "output_limit"
    OUT_OF_MEMORY = "out_of_memory"  # reserved: nothing produces it yet, as that needs control groups
    FAILED_TO_START = "failed_to_start"
    SKIPPED = "skipped"
    LOST = "lost"


class Tone(StrEnum):
    """The class of endings that are shown in one colour."""

    SUCCESS = "success"
    FAILURE = "failure"
    STOPPED = "stopped"  # on request, by a person or by a rule that a person set
    UNKNOWN = "unknown"


class WaitStatus(Enum):
    """Which part of the kernel's wait status (wait(2)) is recorded with an ending."""

    EXIT_CODE = auto()
    SIGNAL = auto()
    EITHER = auto()  # the service ended the command; what the kernel then reported, if anything
    NEITHER = auto()


@dataclass(frozen=True, slots=True)
class EndingInfo:
    """What one ending means.

    `label`: in tables and badges. `sentence`: continues "job 5 …", and may use {exit_code} and {signal}. `tone`: an
    exit with 0 is a success all the same. `exit_code`: of `shellrunner run` and `wait`; None: the command's own, or
    128 and the signal's number, as shells have it. `retryable`: whether `retries.on` may name it. `reserved`: why it
    is not produced yet, although it is part of the API.
    """

    label: str
    sentence: str
    tone: Tone
    exit_code: int | None
    wait_status: WaitStatus
    needs_detail: bool = False
    retryable: bool = True
    reserved: str | None = None


OTHER_EXIT_CODE: Final = 123  # xargs(1) has it for "some command failed"; free in env(1), timeout(1) and shells
TIMED_OUT_EXIT_CODE: Final = 124  # timeout(1)
NOT_STARTED_EXIT_CODE: Final = 126  # env(1)

ENDINGS: Final[Mapping[str, EndingInfo]] = MappingProxyType(
    {
        Ending.EXITED: EndingInfo(
            "exited", "exited with {exit_code}", Tone.FAILURE, None, WaitStatus.EXIT_CODE
        ),
        Ending.SIGNALLED: EndingInfo(
            "signalled", "was terminated by {signal}", Tone.FAILURE, None, WaitStatus.SIGNAL
        ),
        Ending.TIMED_OUT: EndingInfo(
            "timed out", "exceeded its timeout and was terminated", Tone.FAILURE, TIMED_OUT_EXIT_CODE,
            WaitStatus.EITHER,
        ),
        Ending.CANCELLED: EndingInfo(
            "cancelled", "was cancelled", Tone.STOPPED, OTHER_EXIT_CODE, WaitStatus.EITHER, retryable=False
        ),
        Ending.OUTPUT_LIMIT: EndingInfo(
            "output limit", "exceeded its output limit and was terminated", Tone.FAILURE, OTHER_EXIT_CODE,
            WaitStatus.EITHER,
        ),
        Ending.OUT_OF_MEMORY: EndingInfo(
            "out of memory", "ran out of memory and was terminated", Tone.FAILURE, OTHER_EXIT_CODE, WaitStatus.EITHER,
            reserved="needs control groups",
        ),
        Ending.FAILED_TO_START: EndingInfo(
            "failed to start", "failed to start", Tone.FAILURE, NOT_STARTED_EXIT_CODE, WaitStatus.NEITHER,
            needs_detail=True,
        ),
        Ending.SKIPPED: EndingInfo(
            "skipped", "was skipped", Tone.STOPPED, OTHER_EXIT_CODE, WaitStatus.NEITHER, needs_detail=True,
            retryable=False,
        ),
        Ending.LOST: EndingInfo(
            "lost", "is lost: nothing witnessed its end", Tone.UNKNOWN, OTHER_EXIT_CODE, WaitStatus.NEITHER,
            needs_detail=True,
        ),
    }
)  # fmt: skip


def tone_of(ending: str, exit_code: int | None) -> Tone:
    """Return the tone of an ended job; UNKNOWN for an ending of a newer server."""
    if exit_code == 0 and ending == Ending.EXITED:
        return Tone.SUCCESS
    info = ENDINGS.get(ending)
    return info.tone if info else Tone.UNKNOWN
