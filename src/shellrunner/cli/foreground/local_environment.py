"""The current directory and the environment of this process, sent along with a job that runs on this machine.

So a command runs as if it ran here. The service itself says whether it is on this machine: a port on loopback may be
forwarded to another one, where the directory is missing and to which the environment's secrets must not be sent. Must
not know how a job is followed.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from shellrunner.cli import job_request
from shellrunner.cli.ui.console import Console
from shellrunner.client import Client, ClientError
from shellrunner.control_characters import is_utf8
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
# These the service sets for the user that the command runs as; only values that differ from the account's are sent.
OF_ACCOUNT: Final = ("HOME", "LOGNAME", "SHELL", "USER")

_DENIED: Final = frozenset(name for names in DENIED.values() for name in names)
_HINT: Final = "; the current directory and the environment were sent along: use --clean to send neither"
_HINTED_KINDS: Final = ("command-not-allowed", "too-large")


class NoCurrentDirectory(ShellrunnerError):
    """The current directory cannot be sent along."""


class LocalEnvironment(NamedTuple):
    """What is sent along, and the names of variables that cannot be, since their values are not UTF-8."""

    cwd: str
    variables: dict[str, str]
    left_out: tuple[str, ...]

    def add_to(self, submission: Mapping[str, Any]) -> dict[str, Any]:
        """Return a submission with the directory and the variables, as far as it does not set them itself."""
        cwd, env = submission.get("cwd") or self.cwd, submission.get("env") or {}
        if not isinstance(env, Mapping):  # a line of a batch, of which the service says what is wrong
            return {**submission}
        return {**submission, "cwd": cwd, "env": {**self.variables, "PWD": cwd, **env}}


async def submit(client: Client, submission: Mapping[str, Any], console: Console, *, clean: bool) -> Any:
    """Submit a job, with the local environment unless `clean`, or the service is on another machine. Return the job.

    A profile confines a command that is not trusted, so nothing is sent along with it.
    """
    is_clean = clean or bool(submission.get("profile"))
    here = await find(client, console, clean=is_clean, cwd=submission.get("cwd"))
    with errors_mention_clean(here):
        return await job_request.submit(client, submission if here is None else here.add_to(submission))


async def find(client: Client, console: Console, *, clean: bool, cwd: str | None) -> LocalEnvironment | None:
    """Return what is sent along, with `cwd` instead of the current directory if it is given; None if nothing is.

    Reports if the service is on another machine, and which variables cannot be sent.
    """
    if clean:
        return None
    if not await is_local(client):
        if not cwd:
            console.remark("the service is on another machine: its own directory and environment are used")
        return None
    here = read(cwd)
    if here.left_out:
        console.report(f"not valid UTF-8, so not sent: the value of {', '.join(here.left_out)}")
    return here


@contextmanager
def errors_mention_clean(here: LocalEnvironment | None) -> Iterator[None]:
    """Have errors within the block that may be due to what is sent along mention --clean."""
    try:
        yield
    except ClientError as error:
        if here is not None and error.kind in _HINTED_KINDS:
            error.detail += _HINT
        raise


async def is_local(client: Client) -> bool:
    """Return whether the service runs on this machine and sees the same files."""
    return await local_identity(client) is not None


async def local_identity(client: Client) -> str | None:
    """Return the identity that the service gives this client, or None if it is on another machine; see `is_local`."""
    digest = machine_digest()
    # Every user here can read what the digest is made of, so a service elsewhere may claim it to be sent secrets.
    if digest is None or not client.is_loopback:
        return None
    index = await client.index()
    return index["identity"] if index.get("machine") == digest else None


def read(cwd: str | None = None) -> LocalEnvironment:
    """Return `cwd` or the current directory, and the variables that mean something elsewhere too.

    Raises:
        NoCurrentDirectory: it was removed, or its name cannot be sent.
    """
    variables, left_out = {}, []
    account = _account_variables()
    for name, value in os.environ.items():
        if _is_denied(name) or name == "PWD" or account.get(name) == value:
            continue
        if is_utf8(name) and is_utf8(value):
            variables[name] = value
        else:
            left_out.append(name.encode("utf-8", "backslashreplace").decode())
    return LocalEnvironment(cwd or _current_directory(), variables, tuple(left_out))


def values_of(names: Iterable[str]) -> dict[str, str]:
    """Return the values that these variables have here, without those that stay here."""
    return {name: os.environ[name] for name in names if name in os.environ and not _is_denied(name)}


def _is_denied(name: str) -> bool:
    return name in _DENIED or name.startswith(DENIED_PREFIX)


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
    if not is_utf8(found):
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
