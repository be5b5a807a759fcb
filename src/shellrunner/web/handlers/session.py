"""Sessions: a cookie for EventSource, which cannot send a token.

Handlers of POST and DELETE /api/session. Must not know how sessions are stored.
"""

from typing import Final

from aiohttp import hdrs, web

from shellrunner import ascii_text
from shellrunner.access.session_registry import SESSION_LIFETIME
from shellrunner.web.app_keys import AUTHENTICATOR, identity_of
from shellrunner.web.http.streaming import STREAMS
from shellrunner.web.security import audit
from shellrunner.web.security.authentication import cookie_name

_PATH: Final = "/api/statuses"
_NO_STORE: Final = {"Cache-Control": "no-store"}
# What a browser has stored of this origin (W3C Clear Site Data). Not "cookies": they are those of the host, whose
# other ports belong to other programs.
_CLEAR: Final = {"Clear-Site-Data": '"cache", "storage"'}


async def begin(request: web.Request) -> web.Response:
    """POST /api/session: set a session cookie that grants read access to statuses.

    Without a token, which a client of the service's own user does not need, no cookie is set.
    """
    request.app[STREAMS].raise_if_closing()
    await audit.accept(request)
    response, identity = web.Response(status=204, headers=_NO_STORE), identity_of(request)
    if identity.token is not None:
        _set_cookie(request, response, await request.app[AUTHENTICATOR].create_session(identity), SESSION_LIFETIME)
    return response


async def end(request: web.Request) -> web.Response:
    """DELETE /api/session: end all sessions of the token, and clear what the browser has stored of this origin.

    Without a token there is no session to end.
    """
    request.app[STREAMS].raise_if_closing()
    await audit.accept(request)
    response, identity = web.Response(status=204, headers=_NO_STORE | _CLEAR), identity_of(request)
    if identity.token is not None:
        await request.app[AUTHENTICATOR].end_sessions(identity)
        _set_cookie(request, response, "", 0)
    return response


def _set_cookie(request: web.Request, response: web.Response, value: str, seconds: int) -> None:
    is_secure = _is_secure(request)
    response.set_cookie(
        cookie_name(request, is_secure=is_secure),
        value,
        path=_PATH,
        max_age=seconds,
        secure=is_secure,
        httponly=True,
        samesite="Strict",
    )


def _is_secure(request: web.Request) -> bool:
    # Behind a proxy that terminates TLS the Origin says https; the security middleware has checked it.
    return request.secure or ascii_text.lower(request.headers.get(hdrs.ORIGIN, "")).startswith("https:")
