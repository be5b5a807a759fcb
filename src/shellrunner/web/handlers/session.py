"""Sessions: a cookie for EventSource, which cannot send a token.

Handlers of POST and DELETE /api/session. Must not know how sessions are kept.
"""

from typing import Final

from aiohttp import hdrs, web

from shellrunner.access.session_registry import SESSION_LIFETIME
from shellrunner.web.app_keys import AUTHENTICATOR, identity_of
from shellrunner.web.http.streaming import STREAMS
from shellrunner.web.security.authentication import cookie_name

_PATH: Final = "/api/statuses"
_ONCE: Final = {"Cache-Control": "no-store"}


async def begin(request: web.Request) -> web.Response:
    """POST /api/session: a cookie that is good for watching; nothing for whoever needs no token."""
    request.app[STREAMS].raise_if_closing()
    answer, who = web.Response(status=204, headers=_ONCE), identity_of(request)
    if who.token is not None:
        _set(request, answer, await request.app[AUTHENTICATOR].create_session(who), SESSION_LIFETIME)
    return answer


async def end(request: web.Request) -> web.Response:
    """DELETE /api/session: all sessions of the token are over; nothing for whoever needs no token."""
    request.app[STREAMS].raise_if_closing()
    answer, who = web.Response(status=204, headers=_ONCE), identity_of(request)
    if who.token is not None:
        await request.app[AUTHENTICATOR].end_sessions(who)
        _set(request, answer, "", 0)
    return answer


def _set(request: web.Request, answer: web.Response, value: str, seconds: int) -> None:
    answer.set_cookie(
        cookie_name(request),
        value,
        path=_PATH,
        max_age=seconds,
        secure=_is_secure(request),
        httponly=True,
        samesite="Strict",
    )


def _is_secure(request: web.Request) -> bool:
    # A browser that came by TLS to a proxy says so by its Origin, which the gate has checked.
    return request.secure or request.headers.get(hdrs.ORIGIN, "").lower().startswith("https:")
