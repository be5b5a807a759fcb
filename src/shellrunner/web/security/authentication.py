"""Authentication of a request: what it and its connection present is handed to the authenticator.

Used by the security middleware, once for each request. Must not know resources.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final, NoReturn

from aiohttp import hdrs, web

from shellrunner import ascii_text
from shellrunner.access import Identity
from shellrunner.access.authenticator import Authenticator
from shellrunner.access.networks import check_network
from shellrunner.config.auth import Scope
from shellrunner.errors import InsufficientScope, NotThisUser, TokenNeeded
from shellrunner.web.app_keys import AUTHENTICATOR, IDENTITY
from shellrunner.web.http.revocation import REVOCATIONS
from shellrunner.web.http.server_protocol import connection_identity, connection_peer, note_identity
from shellrunner.web.route import Access
from shellrunner.web.security.origin import OriginPolicy, local_port

_MAX_COOKIES: Final = 32  # of one name
_NAME: Final = web.RequestKey("name", str)
# RFC 6750, 2.1; the name of a scheme is case-insensitive (RFC 9110, 11.1).
_BEARER: Final = re.compile(r"bearer +([A-Za-z0-9._~+/-]+=*) *", re.IGNORECASE | re.ASCII)

REQUIRED_SCOPES: Final[Mapping[Access, tuple[Scope, ...]]] = {
    Access.WATCH: ("read",),
    Access.READ: ("read",),
    Access.RUN: ("run",),
    Access.RUN_MANY: ("run", "read"),
    Access.ADMIN: ("admin",),
}


def name_of(request: web.Request) -> str | None:
    """Return the name of the client, even if it was not authorized; None if it is not known."""
    return request.get(_NAME)


async def authenticate_credentials(request: web.Request, origins: OriginPolicy, access: Access) -> Identity | None:
    """Return the identity of the token in the request, or of its session cookie where that is enough.

    None means that the peer's uid decides: see `authenticate_peer`.

    Raises:
        TokenNeeded, TooManyWrongTokens: the token is wrong, or missing where one is required.
        NetworkNotAllowed, TooManyRequests: the token is valid, but not from here, or not as often.
        StoreUnavailable: the session is not known in this process, and the store cannot be asked.
    """
    authenticator = request.app[AUTHENTICATOR]
    if not authenticator.needs_token:
        return None
    credentials = request.headers.getall(hdrs.AUTHORIZATION, ())
    if credentials:
        bearer = _BEARER.fullmatch(credentials[0]) if len(credentials) == 1 else None
        if bearer is None:
            _reject(wrong=len(credentials) > 1)
        identity = authenticator.authenticate_token(bearer[1], _source(request, origins))
        return _within_shares(request, identity, origins)
    if access is Access.WATCH and (session := await _authenticate_cookie(request, authenticator)):
        return _within_shares(request, session, origins)
    return None if _is_unix_socket(request) else _reject()


def _within_shares(request: web.Request, identity: Identity, origins: OriginPolicy) -> Identity:
    """Return the identity if its token may be used from where the client is, and has not sent too many requests."""
    request[_NAME] = identity.name
    if identity.token is not None and identity.token.networks is not None:
        check_network(identity, origins.certain_address(request))
    request.app[AUTHENTICATOR].count_request(identity)
    return identity


def authenticate_peer(request: web.Request, *, is_forwarded: bool) -> Identity:
    """Return the identity of the process at the other end of the connection, which must still be there.

    For a forwarded request, that process is the proxy, and says nothing about the client.

    Raises:
        NotThisUser: it belongs to another user, or its owner is not known.
        TokenNeeded: the same, where a token would be accepted.
    """
    authenticator, peer = request.app[AUTHENTICATOR], connection_peer(request)
    uid = None if is_forwarded or peer is None else peer.uid()
    try:
        identity = authenticator.authenticate_uid(uid, on_unix_socket=peer is not None and peer.is_unix)
    except NotThisUser:
        if uid is not None:
            request[_NAME] = f"uid:{uid}"
        if authenticator.needs_token:
            raise TokenNeeded from None
        raise
    request[_NAME] = identity.name
    if not authenticator.is_still_valid(identity):
        raise TokenNeeded  # the first token was added while the body arrived
    return identity


def bind_connection(request: web.Request, identity: Identity) -> None:
    """Note whose the connection is: it, and what is being answered on it, end as soon as this identity is revoked."""
    connection_identity(request).bind(identity, request.app[REVOCATIONS])
    note_identity(request, identity.name)


def authorize(request: web.Request, identity: Identity, access: Access) -> None:
    """Set the request's identity, if it has the scope that the route requires.

    Raises:
        InsufficientScope: it has not.
    """
    for scope in REQUIRED_SCOPES.get(access, ()):
        if scope not in identity.scopes:
            raise InsufficientScope(scope)
    request[IDENTITY] = identity


def cookie_name(request: web.Request, *, is_secure: bool) -> str:
    """Return the name of the session cookie.

    Browsers send a cookie to every port of its host, and take it from every port, so its name has the port. A name
    with the prefix is taken from servers with TLS only (RFC 6265bis, 4.1.3.1).
    """
    port = local_port(request)
    name = "shellrunner" if port is None else f"shellrunner-{port}"
    return f"__Secure-{name}" if is_secure else name


def _source(request: web.Request, origins: OriginPolicy) -> str:
    """Return what wrong tokens are counted by: a client's address, or a local user."""
    peer = connection_peer(request)
    return f"uid:{peer.uid()}" if peer is not None and peer.is_unix else origins.client_address(request)


def _is_unix_socket(request: web.Request) -> bool:
    peer = connection_peer(request)
    return peer is not None and peer.is_unix


async def _authenticate_cookie(request: web.Request, authenticator: Authenticator) -> Identity | None:
    """Return the identity of the session cookie.

    Another server of this host, on whatever port, can set a cookie of the same name: then there are several, and the
    ones that are no session are ignored. Of two sessions of different tokens none is: which one the user began is not
    known.
    """
    values = _session_cookies(request) if request.method in ("GET", "HEAD") else ()
    found = {}
    for value in values:
        if identity := await authenticator.authenticate_session(value):
            found[identity.name] = identity
    return next(iter(found.values())) if len(found) == 1 else None


def _session_cookies(request: web.Request) -> Sequence[str]:
    """Return the values of all session cookies in the request, each once; of too many, those that come first."""
    cookies = [
        (ascii_text.strip_blanks(name), ascii_text.strip_blanks(value).strip('"'))
        for line in request.headers.getall(hdrs.COOKIE, ())
        for name, _, value in (pair.partition("=") for pair in line.split(";"))
    ]
    for is_secure in (True,) if request.secure else (True, False):
        own = cookie_name(request, is_secure=is_secure)
        if values := [value for name, value in cookies if name == own and value]:
            return tuple(dict.fromkeys(values))[:_MAX_COOKIES]
    return ()


def _reject(*, wrong: bool = False) -> NoReturn:
    raise TokenNeeded(wrong=wrong)
