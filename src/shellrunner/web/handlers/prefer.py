"""The header `Prefer: wait=N` (RFC 7240): a request waits until its job is done, or for N seconds.

Used by the routes that support it. Must not know how they respond.
"""

import contextlib
import re
from collections.abc import Iterable
from functools import partial
from typing import Final

from aiohttp import web

from shellrunner import ascii_text
from shellrunner.model import Job
from shellrunner.web.app_keys import STORE
from shellrunner.web.http.server_protocol import connection_identity, on_disconnect
from shellrunner.web.http.streaming import STREAMS, expire, shorten

MAX_WAIT: Final = 55  # seconds: proxies give up after 60 (nginx's proxy_read_timeout, for example)

# A preference ends at a comma, but not at one inside quotes. Every quote begins something that matches, finished or
# not: else the search would begin again behind each, and take time quadratic in the length of the header.
_PREFERENCE = re.compile(r'(?:[^",]|"(?:[^"\\]|\\.)*+(?:"|\\?\Z))++', re.DOTALL)
_SECONDS = re.compile(r'([0-9]+)|"([0-9]+)"')


def requested_wait(request: web.Request) -> int | None:
    """Return for how many seconds the request prefers to wait, or None."""
    return parse_wait(request.headers.getall("Prefer")) if "Prefer" in request.headers else None


def parse_wait(lines: Iterable[str]) -> int | None:
    """Parse `wait` in the lines of the header: the first one counts (RFC 7240, 2), an invalid one is ignored."""
    preferences = (preference for line in lines for preference in _PREFERENCE.findall(line))
    values = (value for name, value in map(_split, preferences) if name == "wait")
    value = _SECONDS.fullmatch(next(values, ""))
    if value is None:
        return None
    digits = (value[1] or value[2]).lstrip("0")
    return min(int(digits[:3] or "0"), MAX_WAIT)


def _split(preference: str) -> tuple[str, str]:
    """Return the name of a preference, in lower case, and its value; its parameters are ignored."""
    name, _, value = preference.partition(";")[0].partition("=")
    return ascii_text.lower(ascii_text.strip_blanks(name)), ascii_text.strip_blanks(value)


def applied_header(seconds: int) -> dict[str, str]:
    """Return the header that confirms the preference.

    It is sent even if the job was not done in time: the preference is an upper bound for the response time (RFC 7240,
    4.3), and that was met. Without it a client could not distinguish a wait that timed out from a server that does
    not wait.
    """
    return {"Preference-Applied": f"wait={seconds}"}


async def wait_until_done(request: web.Request, job: Job, seconds: int) -> Job:
    """Return the job once it is done, or as it is when the time is over or the service shuts down.

    It is for a client that may read it, and ends at once if that is no longer so.

    A client that may have gone, because it closed its sending side, waits for two heartbeats at most.

    Raises:
        NoSuchJob: it was deleted meanwhile.
        TokenNeeded: the client's token was revoked, or has expired, meanwhile.
        ConnectionError: the client disconnected.
    """
    store, streams, owner = request.app[STORE], request.app[STREAMS], connection_identity(request)
    with store.watch(job.id) as subscription, contextlib.suppress(TimeoutError):
        async with streams.timeout(seconds) as wait:
            end = partial(expire, wait)
            with owner.ended_by(end), on_disconnect(request, end, partial(shorten, wait, 2 * streams.heartbeat)):
                while not (job := await store.job(job.id)).done:
                    await subscription.wait()
    owner.raise_if_revoked()
    return job
