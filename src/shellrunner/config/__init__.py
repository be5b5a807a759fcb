"""Settings: config.toml and the environment, validated and frozen; errors name the location, the key and the reason.

Loaded by the command line at start, and again at SIGHUP. Must not know who uses which setting.
Precedence, highest first: command line, environment (`SHELLRUNNER_SECTION__KEY`), file, default.
"""

import os
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from shellrunner.config import environment, error_messages, secret_files
from shellrunner.config.auth import AuthSettings, Rule, Token
from shellrunner.config.cluster import ClusterSettings, WorkerSettings
from shellrunner.config.jobs import JobDefaults, service_user
from shellrunner.config.profiles import Profile
from shellrunner.config.secret_files import check_rereadable
from shellrunner.config.server import Address, ServerSettings
from shellrunner.config.store_settings import StoreSettings, has_password
from shellrunner.config.types import (
    ZERO_IS_NONE,
    CredentialPath,
    EncodablePath,
    Section,
    callback_host,
    network,
    webhook_secret,
)
from shellrunner.errors import ConfigError
from shellrunner.model import Name
from shellrunner.model.names import NO_QUEUES, is_queue_name

__all__ = [
    "Address",
    "AuditSettings",
    "AuthSettings",
    "CallbackSettings",
    "ClusterSettings",
    "JobDefaults",
    "Profile",
    "QueueSettings",
    "Rule",
    "ServerSettings",
    "Settings",
    "StoreSettings",
    "Token",
    "WorkerSettings",
    "check_rereadable",
    "load",
    "service_user",
    "with_auth",
]


def _segment(name: str) -> str:
    if not is_queue_name(name):
        raise ValueError(f"must not be {', '.join(map(repr, NO_QUEUES))}, which name no queue in a path")
    return name


def _queues(queues: "dict[str, QueueSettings]") -> "dict[str, QueueSettings]":
    return {"default": QueueSettings(), **queues}


def _default_max_running() -> int:
    return max(8, 4 * len(os.sched_getaffinity(0)))


class SupervisorSettings(Section):
    """How many commands run at once, and what happens to them when the service stops."""

    max_running: int = Field(
        default_factory=_default_max_running,
        ge=1,
        description="maximum number of running commands; default: four for each CPU core, at least 8",
    )
    max_queued: Annotated[int | None, ZERO_IS_NONE] = Field(
        10_000, ge=0, description="maximum number of unstarted jobs in all queues; 0: no limit"
    )
    on_stop: Literal["keep", "drain", "cancel"] = Field(
        "keep",
        description="running commands at a stop: continue and are adopted later, are waited for, are cancelled",
    )


class QueueSettings(Section):
    """Limits of one queue. None: no limit of its own."""

    max_running: Annotated[int | None, ZERO_IS_NONE] = Field(
        None, ge=0, description="maximum number of its running jobs; 0: no limit of its own"
    )
    max_queued: Annotated[int | None, ZERO_IS_NONE] = Field(
        None, ge=0, description="maximum number of its unstarted jobs; 0: no limit of its own"
    )
    profile: Name | None = Field(None, description="the profile of its jobs")


class CallbackSettings(Section):
    """Hosts to which results may be sent, and the secret that signs them."""

    secret: Annotated[str, AfterValidator(webhook_secret)] = Field(
        "", repr=False, description="secret that signs results: whsec_ and 24 to 64 random bytes in base64"
    )
    secret_file: CredentialPath | None = Field(
        None, description="file with that secret and nothing else, or the name of a credential"
    )
    hosts: list[Annotated[str, AfterValidator(callback_host)]] = Field(
        default_factory=list, description="hosts to which results may be sent, as in URLs; empty: no callbacks"
    )
    networks: list[Annotated[str, AfterValidator(network)]] = Field(
        default_factory=list,
        description="private and other special networks, or addresses, that names in `hosts` may resolve to",
    )

    @field_validator("hosts")
    @classmethod
    def _require_secret(cls, hosts: list[str], before: ValidationInfo) -> list[str]:
        # Reported for `hosts`, so that the error has their location. An invalid secret is absent from `before.data`
        # and has an error of its own.
        if hosts and before.data.get("secret") == "" and before.data.get("secret_file", "") is None:
            raise ValueError("requires callbacks.secret or secret_file, by which receivers verify the sender")
        return hosts

    @field_validator("secret_file")
    @classmethod
    def _refuse_both(cls, file: Path | None, before: ValidationInfo) -> Path | None:
        if file is not None and before.data.get("secret"):
            raise ValueError("must not be set together with callbacks.secret")
        return file


class LogSettings(Section):
    """Logging to standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="lowest level that is logged")
    format: Literal["auto", "json", "text"] = Field(
        "auto", description="form of each line: JSON, text for people, or auto: text on a terminal and JSON elsewhere"
    )


class AuditSettings(Section):
    """The audit log: where it is written, and how much of it. None: no limit."""

    file: EncodablePath | None = Field(
        None, description="file for the audit log, synced before each change; absent: the log on standard error"
    )
    reads: bool = Field(False, description="whether reading is logged too, and refused while it cannot be")
    command_characters: Annotated[int | None, ZERO_IS_NONE] = Field(
        1000, ge=0, description="a longer command is cut to so many characters, of its head and its tail; 0: no limit"
    )
    refusals_per_minute: Annotated[int | None, ZERO_IS_NONE] = Field(
        120,
        ge=0,
        description="maximum number of lines for refused requests, a quarter of it for each client; further ones are "
        "counted; 0: no limit",
    )


class Settings(BaseModel):
    """All settings, resolved: no default is computed anywhere else."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    _file: Path | None = PrivateAttr(None)

    server: ServerSettings = Field(default_factory=dict, validate_default=True)
    auth: AuthSettings = Field(default_factory=dict, validate_default=True)
    supervisor: SupervisorSettings = Field(default_factory=dict, validate_default=True)
    queues: Annotated[dict[Annotated[Name, AfterValidator(_segment)], QueueSettings], AfterValidator(_queues)] = (
        Field(default_factory=dict, validate_default=True)
    )
    profiles: dict[Name, Profile] = Field(default_factory=dict)
    jobs: JobDefaults = Field(default_factory=dict, validate_default=True)
    store: StoreSettings = Field(default_factory=dict, validate_default=True)
    worker: WorkerSettings = Field(default_factory=dict, validate_default=True)
    cluster: ClusterSettings = Field(default_factory=dict, validate_default=True)
    callbacks: CallbackSettings = Field(default_factory=dict, validate_default=True)
    log: LogSettings = Field(default_factory=dict, validate_default=True)
    audit: AuditSettings = Field(default_factory=dict, validate_default=True)

    @property
    def file(self) -> Path | None:
        """The file that they were read from."""
        return self._file

    def model_post_init(self, context: Any, /) -> None:
        """Take the file from the context of `load`."""
        self._file = context


def load(path: Path | None = None, **overrides: dict[str, Any]) -> Settings:
    """Load the file (None: defaults only) and the environment.

    `overrides` are sections of settings from the command line, such as `server={"port": 1}`.

    Raises:
        ConfigError: the settings are invalid; one line for each error.
    """
    text = error_messages.read(path) if path else ""

    document, overrides = tomllib.loads(text), {section: table for section, table in overrides.items() if table}
    sources = error_messages.ConfigSources(overrides, environment.read(Settings), path, text)
    errors = list(error_messages.find_unknown_variables(Settings))
    try:
        tables = environment.merge(document, sources.environment, overrides)
        settings = Settings.model_validate(tables, context=path)
    except ValidationError as error:
        errors += [error_messages.format_problem(problem, sources, Settings) for problem in error.errors()]
    else:
        errors += secret_files.check_run_as(settings.auth.tokens, sources)
        try:
            auth = secret_files.with_token_file(settings.auth)
            callbacks, store = _with_secret_file(settings.callbacks), _with_url_file(settings.store)
            settings = settings.model_copy(update={"auth": auth, "callbacks": callbacks, "store": store})
            errors += [error_messages.format_error(key, sources, reason) for key, reason in _conflicts(settings)]
        except ConfigError as error:
            errors.append(error.detail)
    if path and (
        secrets := [what for key, (what, is_secret) in _SECRETS.items() if is_secret(_value(document, key))]
    ):
        errors += secret_files.check_private(path, " and ".join(secrets))
    elif path:
        errors += secret_files.check_writers(path)
    if errors:
        raise ConfigError("\n".join(errors))
    return settings


def _value(document: dict[str, Any], key: tuple[str, str]) -> object:
    section, name = key
    table = document.get(section)
    return table.get(name) if isinstance(table, dict) else None


def _with_secret_file(callbacks: CallbackSettings) -> CallbackSettings:
    """Return `callbacks` with the secret in `callbacks.secret_file`.

    Raises:
        ConfigError: the file is invalid, or others can read it.
    """
    if callbacks.secret_file is None:
        return callbacks
    return callbacks.model_copy(update={"secret": secret_files.read_webhook_secret(callbacks.secret_file)})


def _with_url_file(store: StoreSettings) -> StoreSettings:
    """Return `store` with the URL in `store.url_file`.

    Raises:
        ConfigError: the file is invalid, or others can read it.
    """
    if store.url_file is None:
        return store
    return store.model_copy(update={"url": secret_files.read_store_url(store.url_file)})


def with_auth(settings: Settings, auth: AuthSettings) -> Settings:
    """Return the settings of a running service with another `auth`.

    Raises:
        ConfigError: its other settings do not allow that.
    """
    changed = settings.model_copy(update={"auth": auth})
    if errors := [f"{section}.{key}: {reason}" for (section, key), reason in _conflicts(changed)]:
        raise ConfigError("\n".join(errors))
    return changed


def _conflicts(settings: Settings) -> Iterator[tuple[tuple[str, str], str]]:
    """Find settings that are valid by themselves but conflict: yield the key and the reason."""
    server, tokens = settings.server, settings.auth.tokens
    if not tokens and not all(address.is_private for address in server.addresses):
        key = "listen" if server.listen else "host"
        yield ("server", key), _NOT_LOOPBACK
    if not tokens and not all(address.is_private for address in settings.worker.addresses):
        yield ("worker", "listen"), _NOT_LOOPBACK
    if not tokens and server.cors_origins:
        yield ("server", "cors_origins"), "requires auth.tokens: pages of other sites must send a token"
    yield from _profile_conflicts(settings)


def _profile_conflicts(settings: Settings) -> Iterator[tuple[tuple[str, str], str]]:
    known = settings.profiles
    for token in settings.auth.tokens:
        if token.profile is not None and token.profile not in known:
            yield ("auth", "tokens"), f"the profile of {token.name!r} does not exist: {token.profile!r}"
    for name, queue in settings.queues.items():
        if queue.profile is not None and queue.profile not in known:
            yield ("queues", name), f"its profile does not exist: {queue.profile!r}"
    for name, profile in known.items():
        if profile.network and not settings.auth.tokens:
            yield ("profiles", name), _NETWORK_WITHOUT_TOKENS


# What makes the file that has it private.
_SECRETS: Final[dict[tuple[str, str], tuple[str, Callable[[object], bool]]]] = {
    ("auth", "tokens"): ("tokens", bool),
    ("callbacks", "secret"): ("the secret of callbacks", bool),
    ("store", "url"): ("the password of PostgreSQL", has_password),
}

_NETWORK_WITHOUT_TOKENS = (
    "network = true requires auth.tokens: without them any process of the service's user may run commands over "
    "loopback, and without a profile"
)
_NOT_LOOPBACK = (
    "must be localhost, a loopback address or a Unix socket, because without tokens anybody who can connect may run "
    "commands. To listen on other addresses, create a token: shellrunner token create NAME"
)
