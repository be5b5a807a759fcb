"""Which commands a token may run, and whose jobs it may touch: what config names, to the letter, and nothing else.

Asked by the web side before a job is accepted or touched. Must not know HTTP, or how commands are run.
"""

from collections.abc import Iterator

from shellrunner.access import Identity
from shellrunner.config import Rule
from shellrunner.errors import CommandNotAllowed, NotYours
from shellrunner.model import Job, JobSpec
from shellrunner.wire.json_codec import json_pointer

_LONGEST = 100  # characters of a name that are shown
_KERNELS = ("memory_bytes", "cpu_seconds", "processes", "open_files")  # the limits that a command can run into


def check_command(identity: Identity, spec: JobSpec) -> None:
    """Refuse a job that the identity may not submit.

    No rule has a part of a shell line, since whoever may go on after `ls ` may write `ls ; rm -rf ~`; and a shell
    line is never held against an argv, which no shell would read. A program after which any words may follow is
    trusted with all of its own options: `prefix = ["git"]` is as good as a shell.

    Whoever chooses only the surroundings of a command chooses what it does, too: `LD_PRELOAD` and `BASH_ENV` run
    another program, a directory has other files under the same names, pagers and interpreters take commands from
    what they read (`git log` on a terminal, then `!sh`), and under a limit one step of a script fails and the next
    goes on. So these must be named by the very rule that has the command. All other keys of a job say when, how often
    and for how long it runs, and how its output is kept and told: no more than who may start and cancel it decides
    anyway.

    Raises:
        CommandNotAllowed: no rule has the command, or none that has it allows what else is asked for.
    """
    rules = identity.token.commands if identity.token else None
    if rules is None:
        return
    fitting = [rule for rule in rules if _has(rule, spec)]
    if not fitting:
        pointer = "#/argv" if spec.command is None else "#/command"
        raise CommandNotAllowed(f"{identity.name} may run some commands, and this is none of them", pointer)
    refusals = [next(_beyond(rule, spec), None) for rule in fitting]
    if None not in refusals:
        what, pointer = refusals[0] or ("", "")
        raise CommandNotAllowed(f"{identity.name} may run this command, but not with {what}", pointer)


def check_ownership(identity: Identity, job: Job) -> None:
    """Refuse to have a job cancelled, signalled or deleted that the identity did not submit, if it is bound to that.

    Raises:
        NotYours: another submitted it, or the same when it might run commands as another user.
    """
    if identity.is_restricted and (job.submitter, job.run_as) != (identity.name, identity.run_as):
        raise NotYours(f"{identity.name} may touch only its own jobs, and job {job.id} is none of them")


def check_stdin(identity: Identity, job: Job) -> None:
    """Refuse to give input to a job: what the identity may not start (any more), it may not speak to either.

    Raises:
        NotYours, CommandNotAllowed.
    """
    check_ownership(identity, job)
    check_command(identity, job.spec)


def _has(rule: Rule, spec: JobSpec) -> bool:
    """Whether this is the command of the rule, whatever surrounds it."""
    if spec.argv is None:
        return rule.command == spec.command
    if rule.prefix is not None:
        return spec.argv[: len(rule.prefix)] == tuple(rule.prefix)
    return rule.argv is not None and spec.argv == tuple(rule.argv)


def _beyond(rule: Rule, spec: JobSpec) -> Iterator[tuple[str, str]]:
    """What else is asked for that the rule does not name, in words and with its place."""
    for name in spec.env:
        if name not in rule.env:
            shown = name[:_LONGEST]
            yield f"the variable {shown}", json_pointer("env", shown)
    if spec.cwd is not None and spec.cwd not in map(str, rule.cwd):
        yield "this directory", "#/cwd"
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
    for name in _KERNELS:
        if getattr(spec.limits, name) is not None:
            yield "limits", f"#/limits/{name}"
