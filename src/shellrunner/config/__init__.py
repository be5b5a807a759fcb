"""config.toml and the environment, as frozen settings; what is wrong is refused with its place, key and reason.

Read at the start by the command line, and again at SIGHUP. Must not know who uses which setting.
What the command line says goes before `SHELLRUNNER_SECTION__KEY`, that before the file, that before the defaults.
"""

import json
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from shellrunner.config import error_messages, secret_files
from shellrunner.config.auth import AuthSettings, Rule, Token
from shellrunner.config.error_messages import DELIMITER, PREFIX
from shellrunner.config.jobs import GIB, JobDefaults, user
from shellrunner.config.secret_files import check_lasting
from shellrunner.config.server import Address, ServerSettings
from shellrunner.config.types import ZERO_IS_NONE, AbsolutePath, Section, authority, webhook_secret
from shellrunner.errors import ConfigError
from shellrunner.model import Name

__all__ = [
    "Address",
    "AuthSettings",
    "CallbackSettings",
    "JobDefaults",
    "QueueSettings",
    "Rule",
    "ServerSettings",
    "Settings",
    "Token",
    "check_lasting",
    "load",
    "user",
    "with_auth",
]


def _queues(queues: "dict[str, QueueSettings]") -> "dict[str, QueueSettings]":
    return {"default": QueueSettings(), **queues}


def _state_dir() -> Path:
    # systemd.exec(5): several directories are separated by colons.
    given = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if given:
        return Path(given)
    # XDG Base Directory Specification: a relative path is to be ignored.
    state_home = os.environ.get("XDG_STATE_HOME", "")
    home = os.environ.get("HOME", "")
    home = home if home.startswith("/") else user().pw_dir
    base = Path(state_home) if state_home.startswith("/") else Path(home, ".local/state")
    return base / "shellrunner"


def _four_per_core() -> int:
    return max(8, 4 * len(os.sched_getaffinity(0)))


class SupervisorSettings(Section):
    """How many commands at once, and what becomes of them when the service stops."""

    max_running: int = Field(default_factory=_four_per_core, ge=1)
    max_queued: Annotated[int | None, ZERO_IS_NONE] = Field(10_000, ge=0, description="jobs that wait, in all queues")
    on_stop: Literal["keep", "drain", "cancel"] = "keep"


class QueueSettings(Section):
    """A queue: how many of its jobs run at once, and how many may wait. `None` is no limit of its own."""

    max_running: Annotated[int | None, ZERO_IS_NONE] = Field(None, ge=0)
    max_queued: Annotated[int | None, ZERO_IS_NONE] = Field(None, ge=0)


class StoreSettings(Section):
    """Where the history lies, and how much of it is kept. `None` is no limit."""

    state_dir: AbsolutePath = Field(default_factory=_state_dir)
    retention_days: Annotated[float | None, ZERO_IS_NONE] = Field(30.0, ge=0)
    retention_jobs: Annotated[int | None, ZERO_IS_NONE] = Field(100_000, ge=0)
    retention_bytes: Annotated[int | None, ZERO_IS_NONE] = Field(10 * GIB, ge=0)


class CallbackSettings(Section):
    """Where results may be sent, and the secret with which they are signed."""

    secret: Annotated[str, AfterValidator(webhook_secret)] = Field("", repr=False)
    hosts: list[Annotated[str, AfterValidator(authority)]] = Field(
        default_factory=list, description="none: no callbacks"
    )

    @field_validator("hosts")
    @classmethod
    def _signed(cls, hosts: list[str], before: ValidationInfo) -> list[str]:
        # Of the hosts, so that their place is told; a secret that is wrong is not there, and complained of by itself.
        if hosts and before.data.get("secret") == "":
            raise ValueError("needs callbacks.secret: receivers must be able to tell who calls")
        return hosts


class LogSettings(Section):
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

    server: ServerSettings = Field(default_factory=dict, validate_default=True)
    auth: AuthSettings = Field(default_factory=dict, validate_default=True)
    supervisor: SupervisorSettings = Field(default_factory=dict, validate_default=True)
    queues: Annotated[dict[Name, QueueSettings], AfterValidator(_queues)] = Field(
        default_factory=dict, validate_default=True
    )
    jobs: JobDefaults = Field(default_factory=dict, validate_default=True)
    store: StoreSettings = Field(default_factory=dict, validate_default=True)
    callbacks: CallbackSettings = Field(default_factory=dict, validate_default=True)
    log: LogSettings = Field(default_factory=dict, validate_default=True)

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
    text = error_messages.read(path) if path else ""

    class FromFile(Settings):
        document = tomllib.loads(text)

    sources = error_messages.ConfigSources(overrides, _Environment(Settings)(), path, text)
    wrong = list(error_messages.unknown_variables(Settings))
    try:
        settings = FromFile(**overrides)  # type: ignore[arg-type]  # the sections are made from these
    except ValidationError as error:
        wrong += [error_messages.complaint(problem, sources, Settings) for problem in error.errors()]
    else:
        wrong += secret_files.complaints_of_users(settings.auth.tokens, sources)
        try:
            settings = settings.model_copy(update={"auth": secret_files.with_more_tokens(settings.auth)})
            wrong += [error_messages.words(key, sources, reason) for key, reason in _contradictions(settings)]
        except ConfigError as error:
            wrong.append(error.detail)
    if path and error_messages.is_given(FromFile.document, ("auth", "tokens")):
        wrong += secret_files.complaints_of(path)
    if wrong:
        raise ConfigError("\n".join(wrong))
    return settings


def with_auth(settings: Settings, auth: AuthSettings) -> Settings:
    """The settings of a service that runs, but with another `auth`.

    Raises:
        ConfigError: what it has may not go on with that.
    """
    changed = settings.model_copy(update={"auth": auth})
    if wrong := [f"{section}.{key}: {reason}" for (section, key), reason in _contradictions(changed)]:
        raise ConfigError("\n".join(wrong))
    return changed


def _contradictions(settings: Settings) -> Iterator[tuple[tuple[str, str], str]]:
    """Settings that are right by themselves, and wrong together: a key, and the reason."""
    server, tokens = settings.server, settings.auth.tokens
    if not tokens and not all(address.is_private for address in server.addresses):
        key = "listen" if server.listen else "host"
        yield ("server", key), _OPEN
    if not tokens and server.cors_origins:
        yield ("server", "cors_origins"), "pages of other sites need a token, and auth.tokens has none"


_OPEN = (
    "must be localhost, a loopback address or a Unix socket: without tokens, whoever reaches it may run commands "
    "here. To be reached from elsewhere, make a token: shellrunner token create NAME"
)
