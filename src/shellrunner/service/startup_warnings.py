"""Warn in the log about a start that is dangerous but allowed: a slow parser, root, a shared user, journal gaps.

Also about names and settings that have no effect.

Owned by the composition root. Must not know the running parts.
"""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from aiohttp import http_parser

from shellrunner.config import AuthSettings, ClusterSettings, ServerSettings, Settings, WorkerSettings
from shellrunner.log import STDERR, is_journal
from shellrunner.service.process.pid_namespace import stop_policy
from shellrunner.systemd.journal import rate_limited_unit
from shellrunner.web.security.loopback import BoundAddresses

log = logging.getLogger("shellrunner.service")


def emit(settings: Settings, bound: BoundAddresses) -> None:
    """Log each warning."""
    journal, names = journal_warnings(settings.audit.file), name_warnings(settings.server, bound)
    for text in (*python_warnings(), *_command_warnings(settings), *journal, *names, *store_warnings(settings)):
        log.warning(text)


def emit_for_worker(settings: Settings) -> None:
    """Log each warning about running commands."""
    for text in (*python_warnings(), *_command_warnings(settings), *store_warnings(settings)):
        log.warning(text)


def _command_warnings(settings: Settings) -> Iterator[str]:
    yield from root_warnings(settings.auth, os.geteuid())
    yield from shared_user_warnings(settings.auth, os.geteuid())
    yield from namespace_warnings(settings.supervisor.on_stop)


def python_warnings() -> Iterator[str]:
    """Yield a warning for each option of the interpreter or its packages that makes the service less safe."""
    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        yield (
            "aiohttp uses its parser in Python, which is slower and less strict than the one in C: unset "
            "AIOHTTP_NO_EXTENSIONS, or install aiohttp from a wheel"
        )
    if not __debug__:
        yield "python -O disables the assertions that catch a bug before it does harm: start without -O"


def namespace_warnings(on_stop: str) -> Iterator[str]:
    """Yield a warning if running commands are to continue after a stop, but cannot."""
    if stop_policy(on_stop) != on_stop:
        yield (
            "every process of this PID namespace (container) ends with the service, so commands cannot continue "
            'after a stop, which cancels them: supervisor.on_stop = "keep" acts as "cancel"; "drain" waits for them'
        )


def journal_warnings(audit_file: Path | None) -> Iterator[str]:
    """Yield a warning if the audit log goes to the journal, which may drop lines after it has taken them."""
    if audit_file is None and is_journal(STDERR) and (unit := rate_limited_unit()):
        yield (
            f"journald drops lines of the audit log if there are many: set LogRateLimitIntervalSec=1us in {unit} "
            "(0 would have no effect), or set audit.file"
        )


def root_warnings(auth: AuthSettings, uid: int) -> Iterator[str]:
    """Yield a warning if commands run as root."""
    if uid != 0:
        return
    if not auth.tokens:
        yield "commands run as root: run the service as another user, or create tokens with run_as"
    elif free := [token.name for token in auth.tokens if token.run_as is None]:
        yield f"commands of these tokens run as root: {', '.join(free)}; set run_as for each of them"


def shared_user_warnings(auth: AuthSettings, uid: int) -> Iterator[str]:
    """Yield a warning if commands of tokens run as the service's own user, whose files they can then read."""
    if uid == 0:  # `root_warnings` says more
        return
    # Another user is not possible: a service that is not root refuses such a `run_as` at the start.
    if sharing := [token.name for token in auth.tokens if "run" in token.scopes]:
        yield (
            "commands of these tokens run as the service's own user, so they can read its files: the history, the "
            f"secrets of jobs that are not done, settings and keys: {', '.join(sharing)}; to separate them, run the "
            "service as root and set run_as for each token"
        )


def name_warnings(server: ServerSettings, bound: BoundAddresses) -> Iterator[str]:
    """Yield a warning if names that the configuration has are not accepted."""
    refused = [name for name in server.names if not bound.accept(name)] if "names" in server.model_fields_set else []
    if refused:
        yield (
            f"not accepted in Host: {', '.join(refused)}; a name of server.names counts only if the server listens "
            "on every loopback address that it means, at one port"
        )
    if refused := [origin for origin in server.origins if not bound.accept_origin(origin)]:
        yield (
            f"not accepted as origins: {', '.join(refused)}; the server listens at this port, but not on every "
            "loopback address that the name means"
        )


def store_warnings(settings: Settings) -> Iterator[str]:
    """Yield a warning if settings have no effect on the history that is used, or another one is not used."""
    if settings.store.url:
        history = settings.store.state_dir / "history.db"
        if history.exists():
            yield f"{history} is not used: store.url is set, and the history is in PostgreSQL"
        return
    sections: dict[str, WorkerSettings | ClusterSettings] = {"worker": settings.worker, "cluster": settings.cluster}
    unused = [f"{name}.{key}" for name, section in sections.items() for key in _changed(section)]
    if unused:
        yield f"these settings have no effect without store.url: {', '.join(unused)}"


def _changed(section: WorkerSettings | ClusterSettings) -> Iterator[str]:
    """Yield the settings that are not as shipped."""
    for key, field in type(section).model_fields.items():
        if getattr(section, key) != field.get_default(call_default_factory=True, validated_data={}):
            yield key
