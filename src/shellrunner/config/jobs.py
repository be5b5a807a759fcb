"""Settings of `[jobs]`: defaults and limits of a job. Some defaults follow from the user that its command runs as.

Used by the supervisor. Must not know how a command is started.
Continue in `supervisor.start_message`, which completes a job with these settings; in `keeper.command` and
`keeper.running`, which apply them; and in `access.job_policy`, for those that are maxima of what a job may request.
"""

import os
import pwd
import stat
from pathlib import Path
from typing import Annotated, Final, NamedTuple

from pydantic import AfterValidator, Field

from shellrunner.config.types import ZERO_IS_NONE, EncodablePath, Section, encodable
from shellrunner.model import MAX_TIMEOUT, Argument
from shellrunner.model.names import RESERVED_VARIABLES

GIB: Final = 1 << 30


def _shell(words: list[str]) -> list[str]:
    if not words or not words[0].startswith("/"):
        raise ValueError("must begin with the absolute path of a shell")
    return words


def _variables(variables: dict[str, str]) -> dict[str, str]:
    for name in map(encodable, variables):
        if not name or "=" in name:
            raise ValueError(f"{name!r} is not a valid variable name")
        if name in RESERVED_VARIABLES:
            raise ValueError(f"{name} is set by the service for each job")
    for value in (_default_environment(service_user()) | variables).values():  # a passwd entry may hold anything
        encodable(value)
    return variables


def _directory(value: Path | None) -> Path | None:
    encodable(str(value or _home_directory(service_user())))
    return value


def service_user() -> pwd.struct_passwd:
    """Return the passwd entry of the user that the service runs as; a made-up one if there is none."""
    try:
        return pwd.getpwuid(os.geteuid())
    except KeyError:  # as in a container that runs under a numeric uid
        return pwd.struct_passwd((str(os.geteuid()), "", os.geteuid(), os.getegid(), "", "/", "/bin/sh"))


def _default_environment(user: pwd.struct_passwd) -> dict[str, str]:
    # The login shell of a service's user is often nologin(8) or false(1), which cannot run commands.
    usable = user.pw_shell and Path(user.pw_shell).name not in {"nologin", "false"}
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": user.pw_dir,
        "USER": user.pw_name,
        "LOGNAME": user.pw_name,
        "SHELL": user.pw_shell if usable else "/bin/sh",
        "LANG": "C.UTF-8",
    }


def _home_directory(user: pwd.struct_passwd) -> Path:
    home = Path(user.pw_dir)
    try:
        return home if home.is_absolute() and stat.S_ISDIR(home.stat().st_mode) else Path("/")
    except PermissionError:  # root may not see what a user mounted there (FUSE, NFS), but the user may
        return home
    except (OSError, ValueError):  # missing, unreachable, or not a file name
        return Path("/")


class ProcessDefaults(NamedTuple):
    """The environment and working directory of a command whose job does not set them."""

    environment: dict[str, str]
    cwd: str


class JobDefaults(Section):
    """Defaults and limits of a job."""

    shell: Annotated[list[Argument], AfterValidator(_shell)] = Field(
        ["/bin/sh", "-c"], description="shell that runs a job's `command`, which is appended as the last argument"
    )
    environment: Annotated[dict[str, Argument], AfterValidator(_variables)] = Field(
        default_factory=dict, description="variables added to the default ones, over which they take precedence"
    )
    cwd: Annotated[EncodablePath | None, AfterValidator(_directory)] = Field(
        None, description="working directory; default: the user's home directory"
    )
    timeout: Annotated[float | None, ZERO_IS_NONE] = Field(
        None, ge=0, le=MAX_TIMEOUT, description="seconds until a command is ended; 0: no limit"
    )
    kill_grace: float = Field(5.0, ge=0, le=3600, description="seconds between SIGTERM and SIGKILL to the whole tree")
    leave_children: bool = Field(
        False, description="whether processes that a command leaves behind continue, instead of being ended and named"
    )
    memory_bytes: Annotated[int | None, ZERO_IS_NONE] = Field(
        None, ge=0, le=2**62, description="address space of each process, in bytes (RLIMIT_AS); 0: no limit"
    )
    cpu_seconds: Annotated[int | None, ZERO_IS_NONE] = Field(
        None, ge=0, le=2**31, description="CPU time of each process, in seconds (RLIMIT_CPU); 0: no limit"
    )
    processes: Annotated[int | None, ZERO_IS_NONE] = Field(
        None, ge=0, le=2**31, description="processes of the user, all jobs together (RLIMIT_NPROC); 0: no limit"
    )
    open_files: Annotated[int | None, ZERO_IS_NONE] = Field(
        None, ge=0, le=2**20, description="open files of each process (RLIMIT_NOFILE); 0: no limit"
    )
    output_bytes: int = Field(
        10 * GIB, ge=1, le=2**62, description="default of a job, and the maximum it may request"
    )

    def process_defaults(self, user: pwd.struct_passwd) -> ProcessDefaults:
        """Return the environment and working directory of this user's commands.

        Raises:
            ValueError: the user's passwd entry cannot be encoded; the message is a predicate.
        """
        environment, cwd = _default_environment(user) | self.environment, str(self.cwd or _home_directory(user))
        for text in (*environment.values(), cwd):
            encodable(text)
        return ProcessDefaults(environment, cwd)
