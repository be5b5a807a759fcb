"""Who asks: what the request and its connection show, put before the door.

Used by the gate, which asks once for each request; handlers and streams ask `identity_of`. Must not know resources.
"""

import re
from typing import Final, NoReturn

from aiohttp import hdrs, web

from shellrunner.access import Identity, peer_credentials
from shellrunner.access.authenticator import Authenticator
from shellrunner.errors import InsufficientScope, NotThisUser, TokenNeeded
from shellrunner.web.app_keys import AUTHENTICATOR, IDENTITY
from shellrunner.web.route import Access
from shellrunner.web.security.origin import OriginPolicy, is_forwarded, is_unix_socket, local_port

_NAME: Final = web.RequestKey("name", str)
# RFC 6750, 2.1; a scheme's name is the same in any case (RFC 9110, 11.1).
_BEARER: Final = re.compile(r"bearer +([A-Za-z0-9._~+/-]+=*) *", re.IGNORECASE)

REQUIRED_SCOPES: Final = {Access.WATCH: "read", Access.READ: "read", Access.RUN: "run", Access.ADMIN: "admin"}


def name_of(request: web.Request) -> str | None:
    """Who asks, also if that was not enough to be let in; None: nobody knows."""
    return request.get(_NAME)


def authenticate_credentials(request: web.Request, origins: OriginPolicy, access: Access) -> Identity | None:
    """Whom the request itself shows: by a token, or a session where that is enough. None: the kernel is to be asked.

    Raises:
        TokenNeeded, TooManyWrongTokens: by a wrong one, or none where one is needed.
    """
    door = request.app[AUTHENTICATOR]
    if not door.needs_token:
        return None
    credentials = request.headers.getall(hdrs.AUTHORIZATION, ())
    if credentials:
        bearer = _BEARER.fullmatch(credentials[0]) if len(credentials) == 1 else None
        return (
            door.authenticate_token(bearer[1], _client(request, origins))
            if bearer
            else _nobody(wrong=len(credentials) > 1)
        )
    if access is Access.WATCH and (identity := _by_cookie(request, door)):
        return identity
    return None if is_unix_socket(request) else _nobody()


def authenticate_peer(request: web.Request) -> Identity:
    """Whom the kernel names: the owner of the process at the other end, which must be there still.

    Raises:
        NotThisUser: it is another's, or cannot be told.
        TokenNeeded: the same, where a token would do.
    """
    door = request.app[AUTHENTICATOR]
    # Of what a proxy passes on, the process at the other end says nothing.
    uid = None if is_forwarded(request) else _uid(request)
    if uid is not None:
        request[_NAME] = f"uid:{uid}"
    try:
        return door.authenticate_uid(uid)
    except NotThisUser:
        if door.needs_token:
            raise TokenNeeded from None
        raise


def authorize(request: web.Request, identity: Identity, access: Access) -> None:
    """Keep who asks, if that is enough for such a route.

    Raises:
        InsufficientScope: the token is not for this.
    """
    request[_NAME] = identity.name
    needed = REQUIRED_SCOPES.get(access)
    if needed is not None and needed not in identity.scopes:
        raise InsufficientScope(needed)
    request[IDENTITY] = identity


def cookie_name(request: web.Request) -> str:
    """The session cookie's name: a cookie reaches every port of its host, so the port is in it."""
    port = local_port(request)
    return "shellrunner" if port is None else f"shellrunner-{port}"


def _client(request: web.Request, origins: OriginPolicy) -> str:
    """Who may give how many wrong tokens: an address, or a user of this machine."""
    return f"uid:{_uid(request)}" if is_unix_socket(request) else origins.client_address(request)


def _by_cookie(request: web.Request, door: Authenticator) -> Identity | None:
    value = request.cookies.get(cookie_name(request)) if request.method in ("GET", "HEAD") else None
    return door.authenticate_session(value) if value else None


def _uid(request: web.Request) -> int | None:
    connection = None if request.transport is None else request.transport.get_extra_info("socket")
    return None if connection is None else peer_credentials.peer_uid(connection)


def _nobody(*, wrong: bool = False) -> NoReturn:
    raise TokenNeeded(wrong=wrong)
