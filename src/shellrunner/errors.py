"""One error family. An error carries a code, words for a person, and what helps to mend it.

Owned by whoever raises; turned into HTTP by `web.problems` alone. Must not know status numbers.
"""

from typing import Any, ClassVar


class ShellrunnerError(Exception):
    """`code` names the kind of error for programs, `detail` says it to people, `members` helps to mend it."""

    code: ClassVar[str] = "internal"

    def __init__(self, detail: str, **members: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.members = members


class MalformedJson(ShellrunnerError):
    """The body is not JSON as RFC 8259 has it: syntax, encoding, nesting, duplicate keys, NaN."""

    code = "malformed-json"


class InvalidJob(ShellrunnerError):
    """The body is JSON, but not a job; `errors` is a list of `{"pointer", "detail"}`."""

    code = "invalid-job"

    def __init__(self, errors: list[dict[str, str]]) -> None:
        first = errors[0]
        super().__init__(f"{first['pointer']}: {first['detail']}", errors=errors)


class BadParameter(ShellrunnerError):
    """A query parameter (or a header that acts as one) is unknown or has an impossible value."""

    code = "bad-parameter"

    def __init__(self, parameter: str, detail: str) -> None:
        super().__init__(detail, parameter=parameter)


class BadCursor(BadParameter):
    """The cursor was not made by this list."""

    code = "bad-cursor"


class InvalidSignal(InvalidJob):
    """The body is JSON, but does not name a signal; `errors` as for a job."""

    code = "invalid-signal"


class NoSuchJob(ShellrunnerError):
    """No job has this id: it never existed, or it was deleted."""

    code = "no-such-job"

    def __init__(self, job_id: int | str) -> None:
        super().__init__(f"there is no job {job_id}")


class NoSuchAttempt(NoSuchJob):
    """The job has no attempt of this number (yet)."""

    code = "no-such-attempt"

    def __init__(self, job_id: int, number: int) -> None:
        ShellrunnerError.__init__(self, f"job {job_id} has no attempt {number}")


class NoResultYet(ShellrunnerError):
    """The job is not done, so it has no result."""

    code = "no-result-yet"

    def __init__(self, job_id: int) -> None:
        super().__init__(f"job {job_id} is not done yet, so it has no result")


class ResultGone(ShellrunnerError):
    """The result was deleted from the history; the job stays."""

    code = "result-gone"

    def __init__(self, job_id: int) -> None:
        super().__init__(f"the result of job {job_id} was deleted")


class NotDone(ShellrunnerError):
    """The job is queued or running, and only a job that is done can be deleted."""

    code = "not-done"

    def __init__(self, job_id: int) -> None:
        super().__init__(f"job {job_id} is not done: cancel it first")


class AlreadyDone(ShellrunnerError):
    """The job is done, so there is nothing left to cancel."""

    code = "already-done"

    def __init__(self, job_id: int) -> None:
        super().__init__(f"job {job_id} is done already")


class QueueFull(ShellrunnerError):
    """As many jobs wait as may; nothing was accepted."""

    code = "queue-full"

    def __init__(self, words: str, limit: int) -> None:
        super().__init__(f"{words} already has {limit} jobs that wait: try again later", limit=limit)


class NoSuchQueue(ShellrunnerError):
    """No queue has this name."""

    code = "no-such-queue"

    def __init__(self, queue: str) -> None:
        super().__init__(f"there is no queue {queue}: config names them")


class KeyReused(ShellrunnerError):
    """The Idempotency-Key was used before, with another body."""

    code = "key-reused"

    def __init__(self) -> None:
        super().__init__("this Idempotency-Key came before with another body")


class JobGone(ShellrunnerError):
    """The job that this Idempotency-Key stands for was deleted since."""

    code = "job-gone"

    def __init__(self, job_id: int) -> None:
        super().__init__(f"this Idempotency-Key stands for job {job_id}, which was deleted")


class NotRunning(ShellrunnerError):
    """The job does not run (yet, or any more)."""

    code = "not-running"

    def __init__(self, job_id: int) -> None:
        super().__init__(f"job {job_id} is not running")


class InputClosed(ShellrunnerError):
    """The job takes no input: it was not submitted for it, or its input was ended."""

    code = "input-closed"

    def __init__(self, job_id: int) -> None:
        super().__init__(f'job {job_id} takes no input: it has no {{"stream": true}}, or its input was ended')


class WrongOffset(ShellrunnerError):
    """The input does not begin where the job's input stands; nothing of it was taken."""

    code = "wrong-offset"

    def __init__(self, offset: int) -> None:
        super().__init__(f"{offset} bytes of input were taken so far; nothing of this was", offset=offset)


class InputFull(ShellrunnerError):
    """The command does not read its input; nothing of this was taken."""

    code = "input-full"

    def __init__(self, job_id: int, offset: int) -> None:
        super().__init__(f"job {job_id} has not read what it was sent before; try again later", offset=offset)


class KeeperSilent(ShellrunnerError):
    """The job runs, but its keeper does not answer; whether anything was taken is not known."""

    code = "keeper-silent"

    def __init__(self, job_id: int) -> None:
        super().__init__(f"the keeper of job {job_id} does not answer; what was sent may still be taken")


class StoreUnavailable(ShellrunnerError):
    """The history cannot be read or written (a full or failing disk); nothing was started or changed."""

    code = "store-unavailable"


class TokenNeeded(ShellrunnerError):
    """Who asks is not known: no token came, or a wrong one (`wrong`), and nothing else lets in."""

    code = "token-needed"

    def __init__(self, *, wrong: bool = False) -> None:
        words = "this token is wrong, or has expired" if wrong else "a token is needed: Authorization: Bearer …"
        super().__init__(words)
        self.wrong = wrong


class TooManyWrongTokens(ShellrunnerError):
    """Too many wrong tokens came from there lately, and this one is wrong too; `retry_after` is in seconds."""

    code = "too-many-wrong-tokens"

    def __init__(self, retry_after: int) -> None:
        super().__init__("too many wrong tokens came from there: try again later, or with a right one")
        self.retry_after = retry_after


class NotThisUser(ShellrunnerError):
    """Without tokens only processes of the service's own user are served, and this is none, as far as can be told."""

    code = "not-this-user"


class InsufficientScope(ShellrunnerError):
    """The token is good, but not for this; `scope` is what it lacks."""

    code = "insufficient-scope"

    def __init__(self, scope: str) -> None:
        super().__init__(f"this token lacks the scope {scope}", scope=scope)
        self.scope = scope


class CommandNotAllowed(ShellrunnerError):
    """The token may run some commands, and this is none of them; `errors` as for a job, to what is not allowed."""

    code = "command-not-allowed"

    def __init__(self, detail: str, pointer: str) -> None:
        super().__init__(detail, errors=[{"pointer": pointer, "detail": detail}])


class NotYours(ShellrunnerError):
    """The token may touch only jobs that were submitted with it, and this is another's."""

    code = "not-yours"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)


class SessionsOff(ShellrunnerError):
    """Config does not allow session cookies."""

    code = "sessions-off"

    def __init__(self) -> None:
        super().__init__("there are no sessions: auth.session_cookie is false")


class TooManyStreams(ShellrunnerError):
    """Whoever asks has as many streams open as server.max_streams allows."""

    code = "too-many-streams"

    def __init__(self, limit: int) -> None:
        super().__init__(f"you have {limit} streams open already (server.max_streams)", limit=limit)


class AuditUnavailable(ShellrunnerError):
    """What was asked for cannot be written down, so it is not done."""

    code = "audit-unavailable"

    def __init__(self) -> None:
        super().__init__("the log takes no line of who asked for this, so nothing was done")


class StateLocked(ShellrunnerError):
    """Another server works on this state directory."""

    code = "state-locked"


class ConfigError(ShellrunnerError):
    """The configuration is refused; the words name the file or variable, the key and the reason."""

    code = "config"
