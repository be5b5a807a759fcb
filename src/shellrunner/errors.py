"""The errors of the service. Each has a code for programs, a detail for people, and members that help to fix it.

Raised by every package; turned into HTTP responses by `web.http.problems` alone. Must not know status numbers.
The docstrings are public: the OpenAPI document shows them as the meanings of the problems.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Final

MAX_ERRORS: Final = 100  # of a body in one response: enough to fix it, and a million must not make a giant one


class ShellrunnerError(Exception):
    """An error with a `code` for programs, a `detail` for people, and `members` with more facts, as JSON values."""

    code: ClassVar[str] = "internal"

    def __init__(self, detail: str, **members: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.members = members


class MalformedJson(ShellrunnerError):
    """The body is not valid JSON (RFC 8259): syntax, encoding, nesting, duplicate keys, NaN."""

    code = "malformed-json"


class InvalidJob(ShellrunnerError):
    """The body is JSON, but not a valid job; `errors` lists what is wrong, as `{"pointer", "detail"}`."""

    code = "invalid-job"

    def __init__(self, errors: list[dict[str, str]]) -> None:
        first = errors[0]
        super().__init__(f"{first['pointer']}: {first['detail']}", errors=errors)


class InvalidJobs(InvalidJob):
    """Some jobs of a batch are not valid; `by_index` has the error that each would be by itself."""

    def __init__(self, by_index: Mapping[int, InvalidJob]) -> None:
        super().__init__(_errors_of_batch(by_index))
        self.by_index = by_index


class BadParameter(ShellrunnerError):
    """A query parameter, or a header that acts like one, is unknown or has an invalid value."""

    code = "bad-parameter"

    def __init__(self, parameter: str, detail: str) -> None:
        super().__init__(detail, parameter=parameter)


class BadCursor(BadParameter):
    """The cursor does not belong to this list with these filters and this sort."""

    code = "bad-cursor"


class InvalidSignal(InvalidJob):
    """The body is JSON, but does not name a signal; `errors` lists what is wrong, as for a job."""

    code = "invalid-signal"


class InvalidSize(InvalidJob):
    """The body is JSON, but not the size of a terminal; `errors` lists what is wrong, as for a job."""

    code = "invalid-size"


class InvalidQueue(InvalidJob):
    """The body is JSON, but not the limits of a queue; `errors` lists what is wrong, as for a job."""

    code = "invalid-queue"


class NoSuchJob(ShellrunnerError):
    """No job has this id: it never existed, or was deleted."""

    code = "no-such-job"

    def __init__(self, job_id: int | str) -> None:
        super().__init__(f"there is no job {job_id}")


class NoSuchAttempt(NoSuchJob):
    """The job has no attempt with this number, or not yet."""

    code = "no-such-attempt"

    def __init__(self, job_id: int, number: int) -> None:
        ShellrunnerError.__init__(self, f"job {job_id} has no attempt {number}")


class NoResultYet(ShellrunnerError):
    """The job is not done, so it has no result yet."""

    code = "no-result-yet"

    def __init__(self, job_id: int) -> None:
        super().__init__(f"job {job_id} has no result yet: it is not done")


class ResultGone(ShellrunnerError):
    """The result was deleted; the job remains."""

    code = "result-gone"

    def __init__(self, job_id: int) -> None:
        super().__init__(f"the result of job {job_id} was deleted")


class NotDone(ShellrunnerError):
    """The job is not done, and only a job that is done can be deleted."""

    code = "not-done"

    def __init__(self, job_id: int) -> None:
        super().__init__(f"job {job_id} is not done: cancel it first")


class AlreadyDone(ShellrunnerError):
    """The job is done already, so it can be neither changed nor cancelled."""

    code = "already-done"

    def __init__(self, job_id: int) -> None:
        super().__init__(f"job {job_id} is already done")


class AlreadyStarted(ShellrunnerError):
    """The job is running, and only a job that has not started can be changed."""

    code = "already-started"

    def __init__(self, job_id: int) -> None:
        super().__init__(f"job {job_id} is running: only a job that has not started can be changed")


class JobChanged(ShellrunnerError):
    """Another request has changed the job at the same time; nothing of this one was done."""

    code = "job-changed"

    def __init__(self, job_id: int) -> None:
        super().__init__(f"job {job_id} was changed by another request meanwhile: try again")


class QueueFull(ShellrunnerError):
    """The limit of queued jobs is reached; nothing was accepted.

    `limit` is that limit, and `room` is how many of a batch would be accepted.
    """

    code = "queue-full"

    def __init__(self, words: str, limit: int, *, wanted: int = 1, room: int = 0) -> None:
        """`words` names what is full: a queue, or the service. It has room for so many of the `wanted` jobs."""
        if wanted == 1:
            super().__init__(f"{words} is full, with {limit} jobs queued: try again later", limit=limit)
            return
        detail = f"{words} has room for {room} of these {wanted} jobs, with {limit} queued at most"
        super().__init__(f"{detail}: submit fewer, or try again later", limit=limit, room=room)


class TooManyConnections(ShellrunnerError):
    """Few connections are left, and the token has more of them in use than any other client."""

    code = "too-many-connections"

    def __init__(self) -> None:
        super().__init__(
            "few connections are left (server.max_connections), and this token has more in use than any other client:"
            " try again later"
        )


class TooManyQueuedJobs(ShellrunnerError):
    """As many jobs of this token wait as its `max_queued` allows; nothing was accepted.

    `share` names the setting of the token, `limit` is its value; `room` is how many of a batch would be accepted.
    """

    code = "too-many-queued-jobs"

    def __init__(self, limit: int, *, wanted: int = 1, room: int = 0) -> None:
        """`room` is for how many of the `wanted` jobs there is any."""
        if wanted == 1:
            detail = f"this token has its maximum of queued or waiting jobs, {limit} (max_queued): try again later"
            super().__init__(detail, share="max_queued", limit=limit)
            return
        detail = f"this token has room for {room} of these {wanted} jobs, with {limit} queued or waiting at most"
        detail += " (max_queued): submit fewer, or try again later"
        super().__init__(detail, share="max_queued", limit=limit, room=room)


class NoSuchQueue(ShellrunnerError):
    """No queue has this name."""

    code = "no-such-queue"

    def __init__(self, queue: str) -> None:
        super().__init__(f"there is no queue {queue!r}: see GET /api/queues")


class QueueConfigured(ShellrunnerError):
    """The queue is defined in the configuration, so it can be changed, but not removed."""

    code = "queue-configured"

    def __init__(self, queue: str) -> None:
        reason = "always exists" if queue == "default" else "is defined in the configuration: remove it there"
        super().__init__(f"queue {queue!r} {reason}")


class QueueNotEmpty(ShellrunnerError):
    """The queue has jobs that are not done, so it cannot be removed."""

    code = "queue-not-empty"

    def __init__(self, queue: str) -> None:
        super().__init__(f"queue {queue!r} has jobs that are not done: cancel them first, or wait for them")


class TooManyQueues(ShellrunnerError):
    """There are as many queues as there may be, which is `limit`."""

    code = "too-many-queues"

    def __init__(self, limit: int) -> None:
        super().__init__(f"there are {limit} queues already, which is the maximum: remove one first", limit=limit)


class NoSuchKeeper(ShellrunnerError):
    """No keeper with this number runs a command that the history does not know."""

    code = "no-such-keeper"

    def __init__(self, number: int) -> None:
        super().__init__(f"no keeper {number} runs a command that the history does not know")


class NoSuchHost(ShellrunnerError):
    """No host has this name."""

    code = "no-such-host"

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no host {name!r}: see GET /api/workers")


class HostReachable(ShellrunnerError):
    """The host is reachable, and only one that is not can be removed."""

    code = "host-reachable"

    def __init__(self, name: str) -> None:
        super().__init__(f"host {name!r} is reachable: drain it and stop its server first")


class OnlyHost(ShellrunnerError):
    """The history is in SQLite, so there is one host, which can be neither drained nor removed."""

    code = "only-host"

    def __init__(self) -> None:
        super().__init__(
            "there is only this host, as the history is in SQLite: pause all queues instead of draining it"
        )


class KeyReused(ShellrunnerError):
    """This Idempotency-Key was used before, with a different body."""

    code = "key-reused"

    def __init__(self) -> None:
        super().__init__("this Idempotency-Key was used before with a different body: use a new key for another job")


class JobGone(ShellrunnerError):
    """The job that was submitted with this Idempotency-Key, or one of those of a batch, has been deleted."""

    code = "job-gone"

    def __init__(self, job_id: int, batch: range | None = None) -> None:
        """`batch`: the ids of all jobs that were submitted with the key, if it was for several."""
        if batch is None or len(batch) == 1:
            super().__init__(f"job {job_id}, which was submitted with this Idempotency-Key, has been deleted")
        else:
            detail = f"jobs {batch[0]} to {batch[-1]} were submitted with this Idempotency-Key, and job {job_id}"
            super().__init__(f"{detail} has been deleted")


class NotRunning(ShellrunnerError):
    """The job is not running: it has not started yet, or is done."""

    code = "not-running"

    def __init__(self, job_id: int) -> None:
        super().__init__(f"job {job_id} is not running")


class BeingEnded(ShellrunnerError):
    """The job is being terminated, so it cannot be paused."""

    code = "being-ended"

    def __init__(self, job_id: int) -> None:
        super().__init__(f"job {job_id} is being terminated, so it cannot be paused")


class NoTerminal(ShellrunnerError):
    """The job does not run on a terminal."""

    code = "no-terminal"

    def __init__(self, job_id: int) -> None:
        super().__init__(f'job {job_id} does not run on a terminal: it was submitted without "tty"')


class InputClosed(ShellrunnerError):
    """The job's standard input is not open: it was submitted without a stream, or the stream was closed."""

    code = "input-closed"

    def __init__(self, job_id: int) -> None:
        super().__init__(
            f'standard input of job {job_id} is not open: it was closed, or lacks "stdin": {{"stream": true}}'
        )


class InputTaken(ShellrunnerError):
    """Another client is the writer of the job, and still follows it."""

    code = "input-taken"

    def __init__(self, job_id: int) -> None:
        super().__init__(f"another client is typing into job {job_id}: send take=true to replace it")


class WrongOffset(ShellrunnerError):
    """The request's offset is not that of the next byte, which `offset` names; nothing of it was written."""

    code = "wrong-offset"

    def __init__(self, offset: int) -> None:
        super().__init__(f"{offset} bytes were written so far, and nothing of this request", offset=offset)


class InputFull(ShellrunnerError):
    """The command has not read its earlier input; nothing of this request was written."""

    code = "input-full"

    def __init__(self, job_id: int, offset: int) -> None:
        super().__init__(f"job {job_id} has not read its earlier input: try again later", offset=offset)


class KeeperSilent(ShellrunnerError):
    """The job's keeper does not respond; whether the request took effect is not known."""

    code = "keeper-silent"

    def __init__(self, job_id: int) -> None:
        super().__init__(f"the keeper of job {job_id} does not respond: the request may still take effect")


class HostSilent(KeeperSilent):
    """The job's host is not reachable; the request has had no effect."""

    def __init__(self, job_id: int, host: str) -> None:
        ShellrunnerError.__init__(
            self,
            f"job {job_id} runs on host {host}, which is not reachable: nothing was sent to it; try again later",
        )


class StoreUnavailable(ShellrunnerError):
    """The history cannot be read or written, as on a full or failing disk; nothing was started or changed."""

    code = "store-unavailable"


class DatabaseLost(StoreUnavailable):
    """The database cannot be used just now: its connection is lost or was refused, or it lacks something.

    Nothing was changed.
    """


class NoSpace(StoreUnavailable):
    """The disk is full, or nearly; nothing was started or changed. Deleting, cancelling and reading go on."""

    code = "no-space"

    def __init__(self) -> None:
        super().__init__("the disk is full, or nearly: nothing was started or changed; free space, or delete jobs")


class OutcomeUnknown(StoreUnavailable):
    """The history failed while it was written: whether the request took effect is not known.

    A submission that is repeated with the same Idempotency-Key finds the job, if it was accepted.
    """

    code = "outcome-unknown"


class TokenNeeded(ShellrunnerError):
    """The request needs a token, and has none, or one that is wrong or has expired."""

    code = "token-needed"

    def __init__(self, *, wrong: bool = False) -> None:
        """`wrong`: a token was sent, but is not valid."""
        missing = "a token is required: send it as Authorization: Bearer TOKEN"
        super().__init__("the token is wrong or has expired" if wrong else missing)
        self.wrong = wrong


class TooManyWrongTokens(ShellrunnerError):
    """Too many wrong tokens came from this address recently, and this one is wrong too."""

    code = "too-many-wrong-tokens"

    def __init__(self, retry_after: int) -> None:
        """`retry_after` is the number of seconds after which another token is checked."""
        super().__init__(f"too many wrong tokens from this address: wait {retry_after} s, or use a valid token")
        self.retry_after = retry_after


class TooManyRequests(ShellrunnerError):
    """The token has sent more requests than its `requests_per_second` allows.

    `share` names the setting of the token, `limit` is its value.
    """

    code = "too-many-requests"

    def __init__(self, limit: float, retry_after: int) -> None:
        """`retry_after` is the number of seconds after which another request is accepted."""
        super().__init__(
            f"this token may send {limit:g} requests per second (requests_per_second): wait {retry_after} s",
            share="requests_per_second",
            limit=limit,
        )
        self.retry_after = retry_after


class NetworkNotAllowed(ShellrunnerError):
    """The token is valid, but not for requests from this address, or the client's address is not known.

    It is not known where a proxy forwarded the request that is not one of `server.proxies`.
    """

    code = "network-not-allowed"

    def __init__(self, name: str, address: str | None) -> None:
        where = "from a client whose address a proxy hides (server.proxies)" if address is None else f"from {address}"
        reason = "its `networks` in the configuration do not include that"
        super().__init__(f"{name} may not be used {where}: {reason}", share="networks")


class NotThisUser(ShellrunnerError):
    """Without a token only processes of the service's own user may connect, and this one is not known to be one."""

    code = "not-this-user"


class InsufficientScope(ShellrunnerError):
    """The token is valid, but lacks the scope that this request needs, which `scope` names."""

    code = "insufficient-scope"

    def __init__(self, scope: str, detail: str | None = None) -> None:
        super().__init__(detail or f"this token lacks the scope {scope!r}", scope=scope)
        self.scope = scope


class CommandNotAllowed(ShellrunnerError):
    """The token is not allowed to run this command; `errors` points to what is not allowed."""

    code = "command-not-allowed"

    def __init__(self, detail: str, pointer: str) -> None:
        super().__init__(detail, errors=[{"pointer": pointer, "detail": detail}])


class CommandsNotAllowed(CommandNotAllowed):
    """Some jobs of a batch are not allowed."""

    def __init__(self, by_index: Mapping[int, CommandNotAllowed]) -> None:
        errors = _errors_of_batch(by_index)
        super().__init__(errors[0]["detail"], errors[0]["pointer"])
        self.members["errors"] = errors


class NotYours(ShellrunnerError):
    """The token may change only jobs that were submitted with it, and this job was not."""

    code = "not-yours"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)


class SessionsOff(ShellrunnerError):
    """Session cookies are turned off in the configuration."""

    code = "sessions-off"

    def __init__(self) -> None:
        super().__init__("sessions are turned off: auth.session_cookie is false")


class TooManyStreams(ShellrunnerError):
    """The client has as many streams open as `server.max_streams` allows; `limit` is that number."""

    code = "too-many-streams"

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} streams are open already, which is the maximum (server.max_streams)", limit=limit)


class AuditUnavailable(ShellrunnerError):
    """The audit log could not be written, so the request was rejected."""

    code = "audit-unavailable"

    def __init__(self) -> None:
        super().__init__("the audit log could not be written, so the request was rejected")


class StateLocked(ShellrunnerError):
    """Another server uses this state directory."""

    code = "state-locked"


class ConfigError(ShellrunnerError):
    """The configuration is invalid; the detail names the file or variable, the key and the reason."""

    code = "config"


def _errors_of_batch(by_index: Mapping[int, ShellrunnerError]) -> list[dict[str, str]]:
    """Return the errors of some jobs of a batch, as far as they fit, with pointers into the whole body."""
    errors = [
        {**error, "pointer": f"#/jobs/{index}{error['pointer'].removeprefix('#')}"}
        for index, of_job in by_index.items()
        for error in of_job.members["errors"]
    ]
    return errors[:MAX_ERRORS]
