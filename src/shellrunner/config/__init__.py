"""config.toml and the environment, as frozen settings; what is wrong is refused with its place, key and reason.

Read once, at the start, by the command line. Must not know who uses which setting.
What the command line says goes before `SHELLRUNNER_SECTION__KEY`, that before the file, that before the defaults.
"""

import ipaddress
import json
import os
import pwd
import re
import tomllib
from base64 import b64decode
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from shellrunner.config import complaints
from shellrunner.config.complaints import DELIMITER, PREFIX
from shellrunner.errors import ConfigError
from shellrunner.model import MAX_TIMEOUT, Argument, Name

GIB: Final = 1 << 30


def _loopback(host: str) -> str:
    try:
        if host == "localhost" or ipaddress.ip_address(host).is_loopback:
            return host
    except ValueError:
        pass
    raise ValueError("must be localhost or a loopback address: whoever reaches the port may run commands here")


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("must be an absolute path")
    return path


def _sayable(text: str) -> str:
    """Every job's keeper is told this: in UTF-8, and the kernel by it, for which a NUL is the end."""
    if "\0" in text:
        raise ValueError("must not contain NUL")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("must be UTF-8") from None
    return text


def _shell(words: list[str]) -> list[str]:
    if not words or not words[0].startswith("/"):
        raise ValueError("must begin with the shell's absolute path")
    return words


def _surroundings(given: dict[str, str]) -> dict[str, str]:
    for name in map(_sayable, given):
        if not name or "=" in name:
            raise ValueError(f"{name!r} is no name for a variable")
        if name in {"SHELLRUNNER_JOB", "SHELLRUNNER_JOB_ID"}:
            raise ValueError(f"{name} is set for each job by the service")
    environment = _shipped_environment() | given
    for value in environment.values():  # the shipped ones come from the user's entry, which may say anything
        _sayable(value)
    return environment


# TOML has no null. Zero is read as "no limit" because the other reading, "keep nothing", would delete the history.
ZERO_IS_NONE: Final = AfterValidator(lambda number: number or None)
AbsolutePath = Annotated[Path, Field(strict=False), AfterValidator(_absolute)]
SayablePath = Annotated[AbsolutePath, AfterValidator(lambda path: Path(_sayable(str(path))))]


def _host(host: str) -> str:
    match = re.fullmatch(r"(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?", host.lower())
    if match is None or int(match[1] or 0) > 65_535:
        raise ValueError("must be a host as URLs have it, with its port unless that is the scheme's own")
    return host.lower()


def _secret(secret: str) -> str:
    """As Standard Webhooks has it: `whsec_` and 24 to 64 bytes in base64."""
    if not secret:
        return secret
    try:
        key = b64decode(secret.removeprefix("whsec_"), validate=True)
    except ValueError:
        key = b""
    if not secret.startswith("whsec_") or not 24 <= len(key) <= 64:
        raise ValueError("must be whsec_ and 24 to 64 random bytes in base64")
    return secret


def _queues(queues: "dict[str, Queue]") -> "dict[str, Queue]":
    return {"default": Queue(), **queues}


def _user() -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(os.geteuid())
    except KeyError:  # as in a container that was started under a bare number
        return pwd.struct_passwd((str(os.geteuid()), "", os.geteuid(), os.getegid(), "", "/", "/bin/sh"))


def _shipped_environment() -> dict[str, str]:
    user = _user()
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


def _home() -> Path:
    home = Path(_user().pw_dir)
    return home if home.is_absolute() and home.is_dir() else Path("/")


def _state_dir() -> Path:
    # systemd.exec(5): several directories are separated by colons.
    given = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if given:
        return Path(given)
    # XDG Base Directory Specification: a relative path is to be ignored.
    state_home = os.environ.get("XDG_STATE_HOME", "")
    home = os.environ.get("HOME", "")
    home = home if home.startswith("/") else _user().pw_dir
    base = Path(state_home) if state_home.startswith("/") else Path(home, ".local/state")
    return base / "shellrunner"


def _four_per_core() -> int:
    return max(8, 4 * len(os.sched_getaffinity(0)))


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True)


class Server(_Section):
    """Where requests come in."""

    host: Annotated[str, AfterValidator(_loopback)] = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535, description="0: any free port")


class Supervisor(_Section):
    """How many commands at once, and what becomes of them when the service stops."""

    max_running: int = Field(default_factory=_four_per_core, ge=1)
    max_queued: Annotated[int | None, ZERO_IS_NONE] = Field(10_000, ge=0, description="jobs that wait, in all queues")
    on_stop: Literal["keep", "drain", "cancel"] = "keep"


class Queue(_Section):
    """A queue: how many of its jobs run at once, and how many may wait. `None` is no limit of its own."""

    max_running: Annotated[int | None, ZERO_IS_NONE] = Field(None, ge=0)
    max_queued: Annotated[int | None, ZERO_IS_NONE] = Field(None, ge=0)


class Jobs(_Section):
    """What a job gets that does not say otherwise."""

    shell: Annotated[list[Argument], AfterValidator(_shell)] = ["/bin/sh", "-c"]
    environment: Annotated[dict[str, Argument], AfterValidator(_surroundings)] = Field(
        default_factory=dict, description="merged over what is shipped"
    )
    cwd: SayablePath = Field(default_factory=_home)
    timeout: Annotated[float | None, ZERO_IS_NONE] = Field(None, ge=0, le=MAX_TIMEOUT, description="seconds")
    kill_grace: float = Field(5.0, ge=0, le=3600, description="seconds between TERM and KILL")
    leave_children: bool = False
    memory_bytes: Annotated[int | None, ZERO_IS_NONE] = Field(None, ge=0, le=2**62)
    cpu_seconds: Annotated[int | None, ZERO_IS_NONE] = Field(None, ge=0, le=2**31)
    processes: Annotated[int | None, ZERO_IS_NONE] = Field(None, ge=0, le=2**31)
    open_files: Annotated[int | None, ZERO_IS_NONE] = Field(None, ge=0, le=2**20)
    output_bytes: int = Field(10 * GIB, ge=1, le=2**62, description="of a job, and the most it may ask for")


class Store(_Section):
    """Where the history lies, and how much of it is kept. `None` is no limit."""

    state_dir: AbsolutePath = Field(default_factory=_state_dir)
    retention_days: Annotated[float | None, ZERO_IS_NONE] = Field(30.0, ge=0)
    retention_jobs: Annotated[int | None, ZERO_IS_NONE] = Field(100_000, ge=0)
    retention_bytes: Annotated[int | None, ZERO_IS_NONE] = Field(10 * GIB, ge=0)


class Callbacks(_Section):
    """Where results may be sent, and the secret with which they are signed."""

    secret: Annotated[str, AfterValidator(_secret)] = Field("", repr=False)
    hosts: list[Annotated[str, AfterValidator(_host)]] = Field(default_factory=list, description="none: no callbacks")

    @field_validator("hosts")
    @classmethod
    def _signed(cls, hosts: list[str], before: ValidationInfo) -> list[str]:
        # Of the hosts, so that their place is told; a secret that is wrong is not there, and complained of by itself.
        if hosts and before.data.get("secret") == "":
            raise ValueError("needs callbacks.secret: receivers must be able to tell who calls")
        return hosts


class Log(_Section):
    """What is said on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"


class Settings(BaseSettings):
    """Everything that can be set, resolved: no default is left to be worked out elsewhere."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        env_prefix=PREFIX,
        env_nested_delimiter=DELIMITER,
        env_nested_max_split=1,
    )

    document: ClassVar[dict[str, Any]] = {}  # what the file says

    server: Server = Field(default_factory=dict, validate_default=True)
    supervisor: Supervisor = Field(default_factory=dict, validate_default=True)
    queues: Annotated[dict[Name, Queue], AfterValidator(_queues)] = Field(default_factory=dict, validate_default=True)
    jobs: Jobs = Field(default_factory=dict, validate_default=True)
    store: Store = Field(default_factory=dict, validate_default=True)
    callbacks: Callbacks = Field(default_factory=dict, validate_default=True)
    log: Log = Field(default_factory=dict, validate_default=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """First wins; no .env and no secrets directory, so that nothing is read that was not named."""
        return init_settings, _Environment(settings_cls), InitSettingsSource(settings_cls, cls.document)


class _Environment(EnvSettingsSource):
    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """Leave what is not JSON as it is: it is then refused as any other wrong value is, with its key."""
        try:
            return json.loads(value)
        except ValueError:
            return value


def load(path: Path | None = None, **overrides: dict[str, Any]) -> Settings:
    """Read the file (none: defaults only) and the environment; `overrides` are sections, as `server={"port": 1}`.

    Raises:
        ConfigError: one line for each thing that is wrong.
    """
    text = complaints.read(path) if path else ""

    class FromFile(Settings):
        document = tomllib.loads(text)

    wrong = list(complaints.unknown_variables(Settings))
    try:
        settings = FromFile(**overrides)  # type: ignore[arg-type]  # the sections are made from these
    except ValidationError as error:
        sources = complaints.Sources(overrides, _Environment(Settings)(), path, text)
        wrong += [complaints.complaint(problem, sources, Settings) for problem in error.errors()]
    if wrong:
        raise ConfigError("\n".join(wrong))
    return settings
