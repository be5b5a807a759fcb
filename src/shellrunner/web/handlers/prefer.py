"""`Prefer: wait=N` (RFC 7240): a request that stays until its job is done, or so many seconds.

Used by the routes that take it. Must not know what they answer.
"""

import contextlib
import re
from collections.abc import Iterable
from functools import partial
from typing import Final

from aiohttp import web

from shellrunner.model import Job
from shellrunner.web.app_keys import STORE
from shellrunner.web.http.server_protocol import on_disconnect
from shellrunner.web.http.streaming import STREAMS, expire

MOST: Final = 60  # seconds

# A preference ends at a comma, but not at one in quotes.
_PREFERENCE = re.compile(r'(?:[^",]|"(?:[^"\\]|\\.)*+(?:"|\Z))++', re.DOTALL)
_WAIT = re.compile(r"[ \t]*wait[ \t]*(?:=[ \t]*(?P<value>[^;]*?)[ \t]*)?(?:;.*)?", re.IGNORECASE | re.DOTALL)
_SECONDS = re.compile(r'([0-9]+)|"([0-9]+)"')


def asked(request: web.Request) -> int | None:
    """How many seconds this request may stay; None if it does not ask for that."""
    return seconds(request.headers.getall("Prefer")) if "Prefer" in request.headers else None


def seconds(lines: Iterable[str]) -> int | None:
    """What the header's lines say of `wait`: the first counts (RFC 7240, 2), and what cannot be read is ignored."""
    preferences = (preference for line in lines for preference in _PREFERENCE.findall(line))
    wait = next(filter(None, map(_WAIT.fullmatch, preferences)), None)
    value = _SECONDS.fullmatch(wait["value"] or "") if wait else None
    if value is None:
        return None
    digits = (value[1] or value[2]).lstrip("0")
    return min(int(digits[:3] or "0"), MOST)


def applied(asked: int) -> dict[str, str]:
    """Tell that it was waited.

    Also where the job was not done in time: the preference is an upper bound for the answer (RFC 7240, 4.3),
    and that was kept; without this, nobody could tell a wait in vain from a server that does not wait.
    """
    return {"Preference-Applied": f"wait={asked}"}


async def until_done(request: web.Request, job: Job, most: int) -> Job:
    """The job once it is done; as it is after so many seconds, at the shutdown, or when the client goes.

    Raises:
        NoSuchJob: it was deleted meanwhile.
        ConnectionError: the client has gone.
    """
    store = request.app[STORE]
    with store.watch(job.id) as bell, contextlib.suppress(TimeoutError):
        async with request.app[STREAMS].timeout(most) as wait:
            with on_disconnect(request, partial(expire, wait)):
                while not (job := await store.job(job.id)).done:
                    await bell.wait()
    return job
