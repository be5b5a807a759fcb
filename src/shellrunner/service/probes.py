"""What a worker serves where it listens: probes and the metrics of its own process, to those who may read.

Used by the composition root of a worker. It is the app of a node with the API, with three of its routes: names,
tokens, connections and TLS are those of `[server]` and `[auth]`. Must not know how jobs are run.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from shellrunner.access.authenticator import Authenticator, open_authenticator
from shellrunner.config import Settings
from shellrunner.service.audit_file import AuditFile, audit_sink
from shellrunner.service.audit_log import AuditLog
from shellrunner.service.database_wait import once_possible
from shellrunner.service.health import AuditProbe, Readiness
from shellrunner.service.network.binding import Listeners
from shellrunner.service.network.listening import listening
from shellrunner.service.network.tls import Certificate
from shellrunner.service.session_reader import follow_sessions
from shellrunner.service.supervision import CommandControls
from shellrunner.store import Store
from shellrunner.systemd.notify import Notifier
from shellrunner.tasks import background_task
from shellrunner.web import WORKER_ROUTES, make_app
from shellrunner.web.app_keys import RenderMetrics

log = logging.getLogger("shellrunner.service")


class MakeReadiness(Protocol):
    """Makes what finds out whether jobs run."""

    def __call__(self, audit: AuditProbe, /) -> Readiness: ...


@dataclass(frozen=True, slots=True)
class ServedProbes:
    """What is to be reloaded for what is served, and the task that it needs; nothing if there is no address."""

    authenticator: Authenticator | None = None
    audit: AuditFile | AuditLog | None = None
    tasks: tuple[asyncio.Task[None], ...] = ()


@contextlib.asynccontextmanager
async def serving_probes(
    settings: Settings,
    listeners: Listeners,
    certificate: Certificate | None,
    *,
    store: Store,
    commands: CommandControls,
    readiness: MakeReadiness,
    render_metrics: RenderMetrics,
    notifier: Notifier,
) -> AsyncIterator[ServedProbes]:
    """Serve them on these addresses; do nothing if there are none."""
    if not listeners.endpoints:
        yield ServedProbes()
        return
    settings = _accept_addresses(settings)
    async with audit_sink(settings.audit.file) as audit:
        authenticator = await once_possible(lambda: open_authenticator(settings.auth, store), notifier)
        app = make_app(
            store,
            settings,
            not_ready_reasons=readiness(audit).reasons,
            controls=commands.controls,
            unknown_keepers=commands.keepers,
            usage_reader=commands.usage_reader,
            render_metrics=render_metrics,
            hosts=store.hosts,
            authenticator=authenticator,
            audit_sink=audit,
            bound_addresses=listeners.bound_addresses,
            routes=WORKER_ROUTES,
        )
        async with (
            background_task("session reader", follow_sessions(store, authenticator)) as reading,
            listening(app, listeners, int(settings.server.socket_mode, 8), certificate) as urls,
        ):
            log.info("serving metrics", extra={"urls": urls})
            yield ServedProbes(authenticator, audit, (reading,))


def _accept_addresses(settings: Settings) -> Settings:
    """Accept the addresses as names: `server.names` are the same on all hosts, each of which has its own."""
    hosts = [address.host for address in settings.worker.addresses if address.host not in ("", "localhost")]
    names = [*settings.server.names, *(f"[{host}]" if ":" in host else host for host in hosts)]
    return settings.model_copy(update={"server": settings.server.model_copy(update={"names": names})})
