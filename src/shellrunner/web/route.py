"""A row of the route table, and the access levels of routes.

Used by `make_app`, the security middleware and the OpenAPI document. Must not know any resource.
"""

from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Final, NamedTuple

from aiohttp import web

from shellrunner.model.names import MAX_BODY_BYTES

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

JSON: Final = "application/json"
TEXT: Final = "text/plain"
HTML: Final = "text/html"
SSE: Final = "text/event-stream"
EMPTY: Final = ""
ID: Final = "{id:[1-9][0-9]{0,17}}"
ATTEMPT: Final = "{number:[1-9][0-9]{0,17}}"
QUEUE: Final = r"{name:(?!(pause|resume)$)[^\x2f]+}"  # a segment of a path; those two are routes of their own
HOST: Final = r"{host:[^\x2f]+}"
KEEPER: Final = "{keeper:[1-9][0-9]{0,17}}"


class Access(StrEnum):
    """Who may use a route. There is no default: every route must name its level."""

    PUBLIC = "public"  # under any Host; such a route reveals nothing
    HOST_CHECKED = "host-checked"  # under one of our own names
    AUTHENTICATED = "authenticated"  # with a valid token, or as the service's own user
    WATCH = "watch"  # with the scope `read`, or with a session cookie
    READ = "read"  # with the scope `read`
    RUN = "run"  # with the scope `run`; a job of others only with `read` too, as otherwise it does not exist
    RUN_MANY = "run-many"  # with `run` and `read`, since the numbers reveal which jobs a filter selects
    ADMIN = "admin"  # with the scope `admin`


class Route(NamedTuple):
    """Verb, path, handler, access level, content type of the response, and what a request may contain.

    `parameters` and `headers` are the query parameters and the request headers that the route understands, separated
    by spaces; `body` is the type of the request's body, and `max_body` the most bytes that it may have.
    `alternative` is the content type of the responses to some requests, which the handler knows. `answers` lists the
    possible responses: statuses, each with its document (`200:Job`) or content type, and the codes of problems. It
    leaves out what every route may answer and what follows from the other columns.
    """

    verb: str
    path: str
    handler: Handler
    access: Access
    content_type: str
    parameters: str = ""
    answers: str = ""
    headers: str = ""
    body: type | None = None
    max_body: int = MAX_BODY_BYTES
    alternative: str = ""
