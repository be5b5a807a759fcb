"""The vocabulary of the program: what a job is, what may be requested, the states it passes, and how it ends.

A glossary that every package may read: `job` (lifecycle), `spec` (the request), `pending`, `endings`, `filters`,
`session`, `names` (names and limits). Must not know SQL, HTTP, asyncio or the configuration.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shellrunner.model.endings import Ending
    from shellrunner.model.fields import Argument, Name
    from shellrunner.model.job import (
        AttemptHost,
        Callback,
        Claim,
        CommandState,
        Delivery,
        Done,
        End,
        Found,
        Job,
        JobStatus,
        Leftover,
        Leftovers,
        LiveUsage,
        Phase,
        Queued,
        Running,
        State,
        Stream,
        Submitter,
        TerminalSize,
        Unreachable,
        Usage,
        Volume,
        Waiting,
        next_attempt_at,
    )
    from shellrunner.model.pending import Pending, PendingReason, why_waiting
    from shellrunner.model.session import Session
    from shellrunner.model.spec import (
        MAX_TIMEOUT,
        AgainRequest,
        JobBatch,
        JobPatch,
        JobSpec,
        Limits,
        Notify,
        QueueChange,
        ResizeRequest,
        Retries,
        SignalRequest,
        Streamed,
        Terminal,
    )
else:
    # PEP 562: `spec` imports pydantic, which takes 0.1 s, and each call of the CLI needs `endings` and `names` only.
    _OF_SPEC = (
        "MAX_TIMEOUT AgainRequest JobBatch JobPatch JobSpec Limits Notify QueueChange ResizeRequest Retries "
        "SignalRequest Streamed Terminal"
    )
    _MODULES = {"Ending": "endings", "Argument": "fields", "Name": "fields", "Session": "session"}
    _MODULES |= dict.fromkeys(_OF_SPEC.split(), "spec")
    _MODULES |= dict.fromkeys(("Pending", "PendingReason", "why_waiting"), "pending")

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = import_module(f"shellrunner.model.{_MODULES.get(name, 'job')}")
        value = globals()[name] = getattr(module, name)
        return value


__all__ = [
    "MAX_TIMEOUT",
    "AgainRequest",
    "Argument",
    "AttemptHost",
    "Callback",
    "Claim",
    "CommandState",
    "Delivery",
    "Done",
    "End",
    "Ending",
    "Found",
    "Job",
    "JobBatch",
    "JobPatch",
    "JobSpec",
    "JobStatus",
    "Leftover",
    "Leftovers",
    "Limits",
    "LiveUsage",
    "Name",
    "Notify",
    "Pending",
    "PendingReason",
    "Phase",
    "QueueChange",
    "Queued",
    "ResizeRequest",
    "Retries",
    "Running",
    "Session",
    "SignalRequest",
    "State",
    "Stream",
    "Streamed",
    "Submitter",
    "Terminal",
    "TerminalSize",
    "Unreachable",
    "Usage",
    "Volume",
    "Waiting",
    "next_attempt_at",
    "why_waiting",
]
