"""Which commands a restricted token may run, and whose jobs it may change: what the configuration names, literally.

Used by the web side before a job is accepted or changed. Must not know HTTP, or how commands are run.
"""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Final

from shellrunner.access import Identity
from shellrunner.config import Rule
from shellrunner.errors import CommandNotAllowed, InsufficientScope, NoSuchJob, NotYours
from shellrunner.model import JobSpec
from shellrunner.model.names import PROCESS_LIMITS
from shellrunner.wire.json_codec import json_pointer

_MAX_SHOWN: Final = 100  # characters of a name
_SIGNAL: Final = ("signal", "#/signal")  # the option, and where a request for a signal names it


def check_submission(identity: Identity, spec: JobSpec) -> None:
    """Reject a job that the identity may not submit.

    Raises:
        CommandNotAllowed: see `check_command`.
        InsufficientScope: its result is to be sent somewhere, but the identity may not read results.
    """
    check_command(identity, spec)
    if spec.notify is not None and not identity.sees_all:
        raise InsufficientScope("read", "notify needs the scope 'read', since it sends the result")


def check_command(identity: Identity, spec: JobSpec) -> None:
    """Reject a command that the identity may not run.

    No rule names a part of a shell line, since a client that may append to `ls ` may write `ls ; rm -rf ~`. A rule
    for a shell line never allows an argv, which no shell would read. A program after which any arguments may follow
    is trusted with all of its options: `prefix = ["git"]` is as good as a shell.

    Who chooses only a command's environment also chooses what it does: `LD_PRELOAD` and `BASH_ENV` run another
    program, a directory has other files under the same names, pagers and interpreters take commands from what they
    read (`git log` on a terminal, then `!sh`), and under a limit one step of a script fails and the next one runs. So
    these must be named by the same rule that allows the command. A signal ends one step of a script too: it is an
    option of its own, also where keys of a terminal send it (Ctrl-C), and a command that is cancelled, or ended for
    its time or output, is killed with all of its processes at once (`Claim.kill_only`). All other keys of a job
    choose when, how often and for how long it runs, and how its output is stored and reported: no more than a client
    decides that may start and cancel it.

    Raises:
        CommandNotAllowed: no rule allows the command, or none that does allows what else the job contains.
    """
    _check(identity, spec)


def _check(identity: Identity, spec: JobSpec, *more: tuple[str, str]) -> None:
    """Require a rule that allows the command with all that the job contains, and with these options too."""
    rules = identity.token.commands if identity.token else None
    if rules is None:
        return
    matching = [rule for rule in rules if _matches(rule, spec)]
    if not matching:
        pointer = "#/argv" if spec.command is None else "#/command"
        raise CommandNotAllowed(f"{identity.name} is not allowed to run this command", pointer)
    if spec.profile not in (None, identity.profile):
        more = (*more, ("profile", "#/profile"))  # under it, steps of a script may fail, and the next ones run
    violations = [next(_violations(rule, spec, more), None) for rule in matching]
    if None not in violations:
        what, pointer = violations[0] or ("", "")
        raise CommandNotAllowed(f"{identity.name} is not allowed to run this command with {what}", pointer)


def check_ownership(identity: Identity, job_id: int, submitter: str | None, run_as: str | None) -> None:
    """Reject the change of a job of this submitter and user by an identity that may change only its own.

    A job is another's if another identity submitted it, or the same one when its commands ran as another user.

    Raises:
        NoSuchJob: it is another's, and the identity may not even know that it exists.
        NotYours: it is another's.
    """
    if identity.submitter.owns(submitter, run_as):
        return
    if not identity.sees_all:
        raise NoSuchJob(job_id)
    if identity.is_restricted:
        raise NotYours(f"{identity.name} may change only its own jobs, and job {job_id} is another's")


def check_stdin(identity: Identity, spec: JobSpec) -> None:
    """Reject input for a command that the identity may not run, or may not run any more.

    Raises:
        CommandNotAllowed.
    """
    _check_profile(identity, spec)
    _check(identity, spec)


def check_signal(identity: Identity, spec: JobSpec) -> None:
    """Reject a signal for a command that the identity may not run, or to which it may not send any.

    Stopping it, letting it go on and resizing its terminal are signals too.

    Raises:
        CommandNotAllowed.
    """
    _check_profile(identity, spec)
    _check(identity, spec, _SIGNAL)


def _check_profile(identity: Identity, spec: JobSpec) -> None:
    """Require that a job of a confined identity is confined too: it may have been submitted before that."""
    if identity.profile not in (None, spec.profile):
        words = f"{identity.name} may control only jobs with the profile {identity.profile}"
        raise CommandNotAllowed(words, "#/profile")


def _matches(rule: Rule, spec: JobSpec) -> bool:
    """Return whether the rule allows the command, whatever else the job contains."""
    if spec.argv is None:
        return rule.command == spec.command
    if rule.prefix is not None:
        return spec.argv[: len(rule.prefix)] == tuple(rule.prefix)
    return rule.argv is not None and spec.argv == tuple(rule.argv)


def _violations(rule: Rule, spec: JobSpec, more: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield what else the job contains that the rule does not name, each with its JSON pointer; and of `more`."""
    for name in spec.env:
        if name not in rule.env:
            shown = name[:_MAX_SHOWN]
            yield f"the variable {shown}", json_pointer("env", shown)
    if spec.cwd is not None and spec.cwd not in map(str, rule.cwd):
        yield "this cwd", "#/cwd"
    for option, pointer in chain(_options(spec), more):
        if option not in rule.options:
            yield option, pointer


def _options(spec: JobSpec) -> Iterator[tuple[str, str]]:
    if spec.stdin is not None:
        yield "stdin", "#/stdin"
    if spec.tty is not None:
        yield "tty", "#/tty"
        if spec.stdin is not None:
            yield "signal", "#/tty"  # Ctrl-C is one, as is every other key that stty(1) makes one
    if spec.leave_children is not None:
        yield "leave_children", "#/leave_children"
    for name in PROCESS_LIMITS:
        if getattr(spec.limits, name) is not None:
            yield "limits", f"#/limits/{name}"
