"""Which commands a restricted token may run, and whose jobs it may change: what the configuration names, literally.

Used by the web side before a job is accepted or changed. Must not know HTTP, or how commands are run.
"""

from collections.abc import Iterator

from shellrunner.access import Identity
from shellrunner.config import Rule
from shellrunner.errors import CommandNotAllowed, NotYours
from shellrunner.model import Job, JobSpec
from shellrunner.model.names import PROCESS_LIMITS
from shellrunner.wire.json_codec import json_pointer

_MAX_SHOWN = 100  # characters of a name


def check_command(identity: Identity, spec: JobSpec) -> None:
    """Reject a job that the identity may not submit.

    No rule names a part of a shell line, since a client that may append to `ls ` may write `ls ; rm -rf ~`. A rule
    for a shell line never allows an argv, which no shell would read. A program after which any arguments may follow
    is trusted with all of its options: `prefix = ["git"]` is as good as a shell.

    Who chooses only a command's environment also chooses what it does: `LD_PRELOAD` and `BASH_ENV` run another
    program, a directory has other files under the same names, pagers and interpreters take commands from what they
    read (`git log` on a terminal, then `!sh`), and under a limit one step of a script fails and the next one runs. So
    these must be named by the same rule that allows the command. All other keys of a job choose when, how often and
    for how long it runs, and how its output is stored and reported: no more than a client decides that may start and
    cancel it.

    Raises:
        CommandNotAllowed: no rule allows the command, or none that does allows what else the job contains.
    """
    rules = identity.token.commands if identity.token else None
    if rules is None:
        return
    matching = [rule for rule in rules if _matches(rule, spec)]
    if not matching:
        pointer = "#/argv" if spec.command is None else "#/command"
        raise CommandNotAllowed(f"{identity.name} is not allowed to run this command", pointer)
    violations = [next(_violations(rule, spec), None) for rule in matching]
    if None not in violations:
        what, pointer = violations[0] or ("", "")
        raise CommandNotAllowed(f"{identity.name} is not allowed to run this command with {what}", pointer)


def check_ownership(identity: Identity, job: Job) -> None:
    """Reject the change of a job that a restricted identity did not submit.

    Raises:
        NotYours: another identity submitted it, or the same one when its commands ran as another user.
    """
    if identity.is_restricted and (job.submitter, job.run_as) != (identity.name, identity.run_as):
        raise NotYours(f"{identity.name} may change only its own jobs, and job {job.id} is another's")


def check_stdin(identity: Identity, job: Job) -> None:
    """Reject input for a job that the identity may not submit, or may not submit any more.

    Raises:
        NotYours, CommandNotAllowed.
    """
    check_ownership(identity, job)
    check_command(identity, job.spec)


def _matches(rule: Rule, spec: JobSpec) -> bool:
    """Return whether the rule allows the command, whatever else the job contains."""
    if spec.argv is None:
        return rule.command == spec.command
    if rule.prefix is not None:
        return spec.argv[: len(rule.prefix)] == tuple(rule.prefix)
    return rule.argv is not None and spec.argv == tuple(rule.argv)


def _violations(rule: Rule, spec: JobSpec) -> Iterator[tuple[str, str]]:
    """Yield what else the job contains that the rule does not name, each with its JSON pointer."""
    for name in spec.env:
        if name not in rule.env:
            shown = name[:_MAX_SHOWN]
            yield f"the variable {shown}", json_pointer("env", shown)
    if spec.cwd is not None and spec.cwd not in map(str, rule.cwd):
        yield "this cwd", "#/cwd"
    for option, pointer in _options(spec):
        if option not in rule.options:
            yield option, pointer


def _options(spec: JobSpec) -> Iterator[tuple[str, str]]:
    if spec.stdin is not None:
        yield "stdin", "#/stdin"
    if spec.tty is not None:
        yield "tty", "#/tty"
    if spec.leave_children is not None:
        yield "leave_children", "#/leave_children"
    for name in PROCESS_LIMITS:
        if getattr(spec.limits, name) is not None:
            yield "limits", f"#/limits/{name}"
