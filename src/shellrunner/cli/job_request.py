"""The request for a job, made from the options of a verb; and the flag to which each key of a job belongs.

The options have the names of the keys that they set; those of `FLAGS` have the flags. Must not know click's types.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import click

from shellrunner.cli.job_selection import LAST, last_own_job
from shellrunner.client import Client, ClientError
from shellrunner.clock import format_rfc3339, now_ms

if TYPE_CHECKING:
    from shellrunner.wire.documents import Job

# By the key of the API, in the order of `run --help`: the flag that sets it.
FLAGS: Final = {
    "command": "COMMAND", "argv": "COMMAND", "name": "--name", "cwd": "--cwd", "env": "--env", "stdin": "--stdin",
    "queue": "--queue", "priority": "--priority", "labels": "--label", "after": "--after", "start_at": "--at",
    "timeout": "--timeout", "retries": "--retries", "retries/max": "--retries", "retries/delay": "--retry-delay",
    "retries/on": "--retry-on", "limits": "--limit", "tty": "--tty", "tty/rows": "--tty-size",
    "tty/columns": "--tty-size", "tty/echo": "--tty-echo", "merge_stderr": "--merge", "encoding": "--encoding",
    "leave_children": "--leave-children", "notify": "--notify", "profile": "--profile", "held": "--hold",
}  # fmt: skip
# By the name that `--limit` has for it: the member of `limits`.
LIMITS: Final = {
    "memory": "memory_bytes", "cpu": "cpu_seconds", "processes": "processes", "files": "open_files",
    "output": "output_bytes",
}  # fmt: skip
_SAME_AS_KEY: Final = (
    "cwd",
    "stdin",
    "queue",
    "priority",
    "timeout",
    "encoding",
    "leave_children",
    "profile",
    "name",
)


def spec_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a job that the options set; one that was not given sets none.

    Raises:
        click.UsageError: options contradict each other.
    """
    spec = {key: options[key] for key in _SAME_AS_KEY if options.get(key) is not None}
    if "cwd" in spec:
        spec["cwd"] = _absolute(spec["cwd"])
    if options.get("interactive"):
        spec["stdin"] = {"stream": True}
    _add_pairs(spec, options)
    if (start := _start(options)) is not None:
        spec["start_at"] = start
    if retries := _retries(options):
        spec["retries"] = retries
    if any(options.get(option) for option in ("tty", "tty_size", "tty_echo")):
        echo = {"echo": True} if options.get("tty_echo") else {}
        spec["tty"] = {**(options.get("tty_size") or {}), **echo} or True
    if options.get("hold"):
        spec["held"] = True
    if options.get("merge") is not None:
        spec["merge_stderr"] = options["merge"]
    if options.get("notify") is not None:
        spec["notify"] = {"url": options["notify"]}
    return spec


def command_of(words: Sequence[str]) -> dict[str, Any]:
    """Return the key of a command: one word is a command line for the shell, several are an argv."""
    return {"command": words[0]} if len(words) == 1 else {"argv": list(words)}


async def submit(client: Client, submission: Mapping[str, Any]) -> "Job":
    """Submit a job; an error names the flag that is wrong."""
    with errors_name_flags():
        return await client.submit(**{**submission, **await resolved_after(client, submission)})


async def resolved_after(client: Client, spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the key `after` if it names the last job, with that job's id."""
    after = spec.get("after") or ()
    if LAST not in after:
        return {}
    return {"after": [await last_own_job(client) if each == LAST else each for each in after]}


@contextmanager
def errors_name_flags() -> Iterator[None]:
    """Have the errors of a submission within the block name the flag that is wrong instead of a JSON pointer."""
    try:
        yield
    except ClientError as error:
        if error.problem and (errors := error.problem.get("errors")):
            error.detail = "; ".join(f"{flag_of(each['pointer'])}: {each['detail']}" for each in errors)
            if any(each["detail"].startswith("must be one of the queues:") for each in errors):
                error.detail += "; an admin makes another one with `shellrunner queues create NAME`"
        raise


def flag_of(pointer: str) -> str:
    """Return the flag to which a JSON pointer into a job belongs, with the rest of the pointer."""
    path = pointer.removeprefix("#").removeprefix("/")
    key, _, rest = path.partition("/")
    if key == "limits":
        name = next((name for name, member in LIMITS.items() if member == rest), rest)
        return f"--limit {name}".rstrip(" ")
    flag = FLAGS.get(path) or FLAGS.get(key or "command")
    if flag is None:
        return pointer
    return f"{flag} {rest}" if rest and key in {"env", "labels"} else flag


def _absolute(cwd: str) -> str:
    try:
        return os.path.abspath(cwd)
    except FileNotFoundError:
        raise click.UsageError(f"--cwd {cwd}: the current directory does not exist any more") from None


def _add_pairs(spec: dict[str, Any], options: Mapping[str, Any]) -> None:
    for key, option in (("env", "env"), ("labels", "label")):
        if pairs := options.get(option):
            spec[key] = dict(pairs)
    if limits := options.get("limit"):
        spec["limits"] = {LIMITS[name]: value for name, value in limits}
    if after := options.get("after"):
        spec["after"] = list(dict.fromkeys(job for jobs in after for job in jobs))


def _start(options: Mapping[str, Any]) -> str | None:
    at, delay = options.get("at"), options.get("delay")
    if at is not None and delay is not None:
        raise click.UsageError("--at cannot be combined with --delay")
    return at if delay is None else format_rfc3339(now_ms() + int(delay * 1000))


def _retries(options: Mapping[str, Any]) -> dict[str, Any]:
    given = {"max": options.get("retries"), "delay": options.get("retry_delay"), "on": options.get("retry_on")}
    retries = {key: value for key, value in given.items() if value is not None}
    if retries and "max" not in retries:
        raise click.UsageError("--retry-delay and --retry-on require --retries")
    return retries
