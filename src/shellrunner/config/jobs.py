"""What a job gets that does not say otherwise; what is shipped follows from the user that its command runs as."""

import os
import pwd
import stat
from pathlib import Path
from typing import Annotated, Final, NamedTuple

from pydantic import AfterValidator, Field

from shellrunner.config.types import ZERO_IS_NONE, SayablePath, Section, sayable
from shellrunner.model import MAX_TIMEOUT, Argument

GIB: Final = 1 << 30


def _shell(words: list[str]) -> list[str]:
    if not words or not words[0].startswith("/"):
        raise ValueError("must begin with the shell's absolute path")
    return words


def _variables(given: dict[str, str]) -> dict[str, str]:
    for name in map(sayable, given):
        if not name or "=" in name:
            raise ValueError(f"{name!r} is no name for a variable")
        if name in {"SHELLRUNNER_JOB", "SHELLRUNNER_JOB_ID"}:
            raise ValueError(f"{name} is set for each job by the service")
    for value in (_shipped(user()) | given).values():  # a user's entry may say anything
        sayable(value)
    return given


def _directory(given: Path | None) -> Path | None:
    sayable(str(given or _home(user())))
    return given


def user() -> pwd.struct_passwd:
    """Whom the service runs as."""
    try:
        return pwd.getpwuid(os.geteuid())
    except KeyError:  # as in a container that was started under a bare number
        return pwd.struct_passwd((str(os.geteuid()), "", os.geteuid(), os.getegid(), "", "/", "/bin/sh"))


def _shipped(user: pwd.struct_passwd) -> dict[str, str]:
    # The login shell of a service's user is often nologin(8) or false(1), which is no shell to run things in.
    usable = user.pw_shell and Path(user.pw_shell).name not in {"nologin", "false"}
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": user.pw_dir,
        "USER": user.pw_name,
        "LOGNAME": user.pw_name,
        "SHELL": user.pw_shell if usable else "/bin/sh",
        "LANG": "C.UTF-8",
    }


def _home(user: pwd.struct_passwd) -> Path:
    home = Path(user.pw_dir)
    try:
        return home if home.is_absolute() and stat.S_ISDIR(home.stat().st_mode) else Path("/")
    except PermissionError:  # root is kept out of what a user mounted there (FUSE, NFS), and the user may not be
        return home
    except (OSError, ValueError):  # it is not there, cannot be reached, or is no name of a file
        return Path("/")


class Surroundings(NamedTuple):
    """What a command finds that does not say otherwise."""

    environment: dict[str, str]
    cwd: str


class JobDefaults(Section):
    """What a job gets that does not say otherwise."""

    shell: Annotated[list[Argument], AfterValidator(_shell)] = Field(["/bin/sh", "-c"])
    environment: Annotated[dict[str, Argument], AfterValidator(_variables)] = Field(
        default_factory=dict, description="beside what is shipped, and before it"
    )
    cwd: Annotated[SayablePath | None, AfterValidator(_directory)] = Field(None, description="None: the user's home")
    timeout: Annotated[float | None, ZERO_IS_NONE] = Field(None, ge=0, le=MAX_TIMEOUT, description="seconds")
    kill_grace: float = Field(5.0, ge=0, le=3600, description="seconds between TERM and KILL")
    leave_children: bool = False
    memory_bytes: Annotated[int | None, ZERO_IS_NONE] = Field(None, ge=0, le=2**62)
    cpu_seconds: Annotated[int | None, ZERO_IS_NONE] = Field(None, ge=0, le=2**31)
    processes: Annotated[int | None, ZERO_IS_NONE] = Field(None, ge=0, le=2**31)
    open_files: Annotated[int | None, ZERO_IS_NONE] = Field(None, ge=0, le=2**20)
    output_bytes: int = Field(10 * GIB, ge=1, le=2**62, description="of a job, and the most it may ask for")

    def surroundings(self, user: pwd.struct_passwd) -> Surroundings:
        """What this user's commands find: what is given here, and else what is shipped for the user.

        Raises:
            ValueError: the user's entry has what no command can be told; the words are a predicate.
        """
        environment, cwd = _shipped(user) | self.environment, str(self.cwd or _home(user))
        for text in (*environment.values(), cwd):
            sayable(text)
        return Surroundings(environment, cwd)
