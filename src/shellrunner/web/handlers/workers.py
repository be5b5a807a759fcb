"""Workers: the hosts of the history, which of them are reachable, and which are to start no more jobs.

Handlers of the routes under /api/workers. Must not know how a host is judged, or how jobs are run.
"""

import logging

from aiohttp import web

from shellrunner.clock import format_rfc3339
from shellrunner.errors import HostReachable, NoSuchHost
from shellrunner.store import Host
from shellrunner.web.app_keys import HOSTS
from shellrunner.web.http import parameters, responses
from shellrunner.web.http.problems import HttpProblem
from shellrunner.web.http.streaming import STREAMS
from shellrunner.web.security import audit
from shellrunner.wire import documents

log = logging.getLogger("shellrunner.web")


async def index(request: web.Request) -> web.StreamResponse:
    """GET /api/workers: list all hosts of the history, with what each runs. A history in SQLite has one host."""
    listed: documents.Workers = {"workers": [_worker(host) for host in await request.app[HOSTS].list()]}
    return await responses.ok(request, listed)


async def show(request: web.Request) -> web.StreamResponse:
    """GET /api/workers/{host}: return a host of the history."""
    return await responses.ok(request, _worker(await _find(request)))


async def drain(request: web.Request) -> web.StreamResponse:
    """POST /api/workers/{host}/drain: start no more jobs on this host; those that run there continue.

    This stays so when its server is restarted, until the host is resumed.
    """
    return await _set_draining(request, draining=True)


async def resume(request: web.Request) -> web.StreamResponse:
    """POST /api/workers/{host}/resume: start jobs on this host again."""
    return await _set_draining(request, draining=False)


async def remove(request: web.Request) -> web.StreamResponse:
    """DELETE /api/workers/{host}: remove a host that is not reachable and will not return; its running jobs are lost.

    If it does return, it is listed again, and what it saw of those jobs is added to their results (`found`).
    """
    request.app[STREAMS].raise_if_closing()
    name = request.match_info["host"]
    if parameters.choice(request, "confirm", ("true", "false")) != "true":
        audit.add_details(request, host=name)
        host = await _find(request)
        if host.reachable:
            raise HostReachable(name)
        detail = f"this would remove host {name!r} and declare {host.running} jobs lost: repeat it with confirm=true"
        raise HttpProblem("unconfirmed", detail, parameter="confirm", lost=host.running)
    await audit.accept(request, host=name)
    lost = await request.app[HOSTS].remove(name)
    audit.add_details(request, lost=lost)
    log.info("a host was removed by a request", extra={"host": name, "lost": lost})
    removed: documents.RemovedWorker = {"lost": lost}
    return await responses.no_store(request, 200, removed, {})


async def _find(request: web.Request) -> Host:
    """Return the host that the path names.

    Raises:
        NoSuchHost: no host has this name.
    """
    name = request.match_info["host"]
    for host in await request.app[HOSTS].list():
        if host.name == name:
            return host
    raise NoSuchHost(name)


async def _set_draining(request: web.Request, *, draining: bool) -> web.StreamResponse:
    request.app[STREAMS].raise_if_closing()
    name, hosts = request.match_info["host"], request.app[HOSTS]
    await audit.accept(request, host=name, draining=draining)
    host = await (hosts.drain(name) if draining else hosts.resume(name))
    return await responses.no_store(request, 200, _worker(host), {})


def _worker(host: Host) -> documents.Worker:
    return {
        "host": host.name,
        "runs_jobs": host.claims,
        "queues": None if host.queues is None else [*host.queues],
        "slots": host.slots,
        "running": host.running,
        "unsettled": host.unsettled,
        "free": host.free,
        "draining": host.draining,
        "reachable": host.reachable,
        "stopped": host.stopped,
        "seen": format_rfc3339(host.seen),
        "joined": format_rfc3339(host.joined),
        "version": host.version,
        "responding": host.is_this,
        "differing": [*host.differing],
    }
