"""The columns of the tables, each row described once, by names.

INSERT, SELECT, UPDATE and the mapping to the model follow from the fields of these classes: a new column is a field
here, and a migration in the back end's schema. Must not know connections.
"""

import json
from typing import Any, Final, NamedTuple, Self

from shellrunner.clock import Millis
from shellrunner.errors import StoreUnavailable
from shellrunner.model import Done, End, Ending, Found, Leftover, Leftovers, Usage, Volume


class NewJobRow(NamedTuple):
    """The columns of `jobs` that are written when a job is accepted; all others have their defaults."""

    state: str
    queue: str
    priority: int
    created: Millis
    command: str
    spec: str
    submitter: str | None
    run_as: str | None
    kill_only: int
    name: str | None
    again_of: int | None
    held: int
    keeper: int | None
    token: str | None
    claimed: Millis | None


class EndRow(NamedTuple):
    """The columns that say how an attempt ended: in `jobs` for the last attempt, in `attempts` for earlier ones."""

    started: Millis | None
    completed: Millis
    ending: str
    exit_code: int | None
    signal: str | None
    detail: str | None
    duration: float | None
    cpu_user: float | None
    cpu_system: float | None
    max_rss_bytes: int | None
    stdout_bytes: int | None
    stderr_bytes: int | None
    stdout_dropped: int | None
    stderr_dropped: int | None
    leftovers: str | None
    leftovers_count: int | None

    @classmethod
    def from_end(cls, end: End, volume: Volume) -> Self:
        """Return the row for this end."""
        usage = end.usage
        cpu_user, cpu_system, max_rss = (usage.cpu_user, usage.cpu_system, usage.max_rss_bytes) if usage else _UNKNOWN
        return cls(
            started=end.started,
            completed=end.completed,
            ending=end.ending.value,
            exit_code=end.exit_code,
            signal=end.signal,
            detail=end.detail,
            duration=end.duration,
            cpu_user=cpu_user,
            cpu_system=cpu_system,
            max_rss_bytes=max_rss,
            stdout_bytes=volume.stdout_bytes,
            stderr_bytes=volume.stderr_bytes,
            stdout_dropped=volume.stdout_dropped,
            stderr_dropped=volume.stderr_dropped,
            leftovers=_dump(end.leftovers) if end.leftovers else None,
            leftovers_count=end.leftovers.count if end.leftovers else None,
        )

    def to_done(self) -> Done:
        """Return the phase that this row stands for.

        Raises:
            StoreUnavailable: the row contradicts itself, so it is damaged.
        """
        usage = None
        if self.cpu_user is not None and self.cpu_system is not None:
            usage = Usage(self.cpu_user, self.cpu_system, self.max_rss_bytes)
        try:
            end = End(
                ending=Ending(self.ending),
                completed=self.completed,
                exit_code=self.exit_code,
                signal=self.signal,
                detail=self.detail,
                started=self.started,
                duration=self.duration,
                usage=usage,
                leftovers=self._leftovers(),
            )
        except (ValueError, KeyError, TypeError) as contradiction:  # not written by this program
            raise StoreUnavailable(f"an end in the history is contradictory: {contradiction}") from None
        return Done(end, self._volume())

    def _leftovers(self) -> Leftovers | None:
        if self.leftovers is None:
            return None
        processes = tuple(Leftover(process["pid"], process["command"]) for process in json.loads(self.leftovers))
        return Leftovers(processes, self.leftovers_count or len(processes))

    def _volume(self) -> Volume | None:
        if self.stdout_bytes is None:
            return None
        return Volume(self.stdout_bytes, self.stderr_bytes or 0, self.stdout_dropped or 0, self.stderr_dropped or 0)


_UNKNOWN: Final = (None, None, None)


def dump_found(end: End) -> str:
    """Return what the column `found` has for this end."""
    found = {"ending": end.ending.value, "completed": end.completed, "exit_code": end.exit_code, "signal": end.signal}
    return json.dumps(found, separators=(",", ":"))


def parse_found(text: str) -> Found:
    """Return what the column `found` says."""
    found = json.loads(text)
    return Found(Ending(found["ending"]), found["completed"], found["exit_code"], found["signal"])


def _dump(leftovers: Leftovers) -> str:
    processes = [{"pid": process.pid, "command": process.command} for process in leftovers.processes]
    return json.dumps(processes, ensure_ascii=False, separators=(",", ":"))


class JobRow(NamedTuple):
    """The columns of `jobs` that everybody may see, but for those of `EndRow`."""

    id: int
    spec: str
    created: Millis
    attempt: int
    submitter: str | None
    run_as: str | None
    name: str | None
    again_of: int | None
    queue: str
    state: str
    cancelling: int
    claimed: Millis | None
    held: int
    awaits: int
    due: Millis | None


class AwaitedRow(NamedTuple):
    """What `rows` looks up for a waiting job: the first of the jobs that it waits for."""

    awaited: int | None


class JobHostRow(NamedTuple):
    """What `rows` looks up of the host of a job, where there are several; all null in SQLite.

    host: of the last claim. unreachable_since: while the job runs there. found: what `Found` has, as JSON.
    """

    host: str | None
    unreachable_since: Millis | None
    found: str | None


class EarlierAttemptRow(NamedTuple):
    """What `rows` looks up of an attempt that others followed, where there are several hosts; all null in SQLite."""

    attempt_host: str | None
    attempt_found: str | None


class CallbackRow(NamedTuple):
    """The columns of a job's callback, as `rows` names them; all null if it has none."""

    callback_state: str | None
    callback_tries: int | None
    callback_error: str | None


class ClaimRow(NamedTuple):
    """The columns of `jobs` that make a claim, without the job's secrets (`SecretsRow`)."""

    id: int
    queue: str
    submitter: str | None
    token: str
    keeper: int
    spec: str
    claimed: Millis
    cancelling: int
    attempt: int
    created: Millis
    due: Millis | None
    run_as: str | None
    kill_only: int


class SecretsRow(NamedTuple):
    """The column of `jobs` with what `sealing` has sealed; null if the job has no secrets, and once it has ended."""

    secrets: str | None


RowClass = type[tuple[Any, ...]]  # a NamedTuple whose fields are columns


def columns(*rows: RowClass) -> str:
    """Return the columns of these rows as SELECT and INSERT name them."""
    return ", ".join(column for row in rows for column in row.__annotations__)


def placeholders(row: RowClass) -> str:
    """Return a `?` for each column."""
    return ", ".join("?" * len(row.__annotations__))


def assignments(row: RowClass) -> str:
    """Return the columns as UPDATE assigns them."""
    return ", ".join(f"{column} = ?" for column in row.__annotations__)
