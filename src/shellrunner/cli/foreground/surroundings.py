"""The current directory and the environment of this process, which go along with a job that runs on this machine.

So a command runs as if it ran here. Whether the service is on this machine, it says itself: a port on loopback may be
forwarded to another one, where the directory is missing and the environment's secrets are not to be sent. Must not
know how a job is followed.
"""

import os
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from shellrunner.cli import job_request
from shellrunner.cli.ui.console import Console
from shellrunner.client import Client, ClientError
from shellrunner.errors import ShellrunnerError
from shellrunner.machine import machine_digest

# Variables that stay here, by reason. The service's own are those of this client, with its token, or of the job in
# which it runs.
DENIED_PREFIX: Final = "SHELLRUNNER_"
DENIED: Final = {
    "of this shell": ("_", "SHLVL", "OLDPWD"),
    "of this terminal": ("COLUMNS", "LINES", "WINDOWID", "GPG_TTY", "SSH_TTY"),
    "of this login session": ("XDG_SESSION_ID",),
    "of the unit in which this process runs (systemd.exec(5))": (
        "INVOCATION_ID", "JOURNAL_STREAM", "SYSTEMD_EXEC_PID", "MANAGERPID", "MAINPID", "NOTIFY_SOCKET",
        "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "FDSTORE",
        "CREDENTIALS_DIRECTORY", "MEMORY_PRESSURE_WATCH", "MEMORY_PRESSURE_WRITE",
    ),
}  # fmt: skip
# These the service sets for the user that the command runs as; only values that differ from the account's go along.
OF_ACCOUNT: Final = ("HOME", "LOGNAME", "SHELL", "USER")

_DENIED: Final = frozenset(name for names in DENIED.values() for name in names)
_HINT: Final = "; the current directory and the environment went along: --clean sends neither"
_HINTED_KINDS: Final = ("command-not-allowed", "too-large")


class NoCurrentDirectory(ShellrunnerError):
    """The current directory cannot go along."""


class Surroundings(NamedTuple):
    """What goes along, and the names of variables that cannot, since their values are not UTF-8."""

    cwd: str
    environment: dict[str, str]
    left_out: tuple[str, ...]


async def submit(client: Client, submission: Mapping[str, Any], console: Console, *, clean: bool) -> Any:
    """Submit a job, with the surroundings of this process unless `clean`, or the service is on another machine.

    What the submission names itself wins. A profile confines a command that is not trusted, so nothing goes along
    with it. Return the job.
    """
    if clean or submission.get("profile"):
        return await job_request.submit(client, submission)
    if not await is_here(client):
        if not submission.get("cwd"):
            console.remark("the service is on another machine: its own directory and environment are used")
        return await job_request.submit(client, submission)
    here = collect(submission.get("cwd"))
    if here.left_out:
        console.report(f"not valid UTF-8, so not sent: the value of {', '.join(here.left_out)}")
    environment = {**here.environment, "PWD": here.cwd, **submission.get("env", {})}
    try:
        return await job_request.submit(client, {**submission, "cwd": here.cwd, "env": environment})
    except ClientError as error:
        if error.kind in _HINTED_KINDS:
            error.detail += _HINT
        raise


def keys_of(here: Surroundings) -> dict[str, Any]:
    """Return the keys of a job that goes along with these."""
    return {"cwd": here.cwd, "env": {**here.environment, "PWD": here.cwd}}


async def is_here(client: Client) -> bool:
    """Return whether the service runs on this machine and sees the same files."""
    return await identity_here(client) is not None


async def identity_here(client: Client) -> str | None:
    """Return the identity that the service gives this client, or None if it is on another machine; see `is_here`."""
    digest = machine_digest()
    if digest is None:
        return None
    index = await client.index()
    return index["identity"] if index.get("machine") == digest else None


def collect(cwd: str | None = None) -> Surroundings:
    """Return `cwd` or the current directory, and the variables that mean something elsewhere too.

    Raises:
        NoCurrentDirectory: it was removed, or its name cannot be sent.
    """
    environment, left_out = {}, []
    account = _account_variables()
    for name, value in os.environ.items():
        if name in _DENIED or name == "PWD" or name.startswith(DENIED_PREFIX) or account.get(name) == value:
            continue
        if _is_utf8(name) and _is_utf8(value):
            environment[name] = value
        else:
            left_out.append(name.encode("utf-8", "backslashreplace").decode())
    return Surroundings(cwd or _current_directory(), environment, tuple(left_out))


def _current_directory() -> str:
    """Return the current directory as the shell shows it, which may lead over symbolic links (pwd(1))."""
    try:
        shown, real = os.environ.get("PWD", ""), os.getcwd()
        found = shown if os.path.isabs(shown) and os.path.samefile(shown, real) else real
    except FileNotFoundError:
        found = ""
    except OSError:
        found = real
    if not found:
        raise NoCurrentDirectory("the current directory does not exist any more: change to another, or use --cwd")
    if not _is_utf8(found):
        raise NoCurrentDirectory("the name of the current directory is not valid UTF-8: use --cwd")
    return found


def _account_variables() -> Mapping[str, str]:
    """Return what this user's account sets, by variable."""
    import pwd  # noqa: PLC0415  only for verbs that submit

    try:
        account = pwd.getpwuid(os.geteuid())
    except KeyError:
        return {}
    values = {"HOME": account.pw_dir, "LOGNAME": account.pw_name, "SHELL": account.pw_shell, "USER": account.pw_name}
    return {name: values[name] for name in OF_ACCOUNT}


def _is_utf8(text: str) -> bool:
    # Python decodes invalid bytes to lone surrogates, which JSON in UTF-8 cannot have.
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)
