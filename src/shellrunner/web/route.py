"""What a row of the route table says, and for whom a route is.

Used by `make_app`, the gate and the OpenAPI document. Must not know any resource.
"""

from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Final, NamedTuple

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

JSON: Final = "application/json"
TEXT: Final = "text/plain"
HTML: Final = "text/html"
SSE: Final = "text/event-stream"
EMPTY: Final = ""
ID: Final = "{id:[1-9][0-9]{0,17}}"
ATTEMPT: Final = "{number:[1-9][0-9]{0,17}}"


class Access(StrEnum):
    """For whom a route is. There is no default: a row that does not say it cannot be made."""

    PUBLIC = "anybody"  # under any Host, and it tells nothing
    HOST_CHECKED = "visitors"  # whoever names us by a good Host
    AUTHENTICATED = "known"  # whoever has a token, or is the service's own user
    WATCH = "watchers"  # those who may read, and sessions too
    READ = "readers"  # the scope `read`
    RUN = "runners"  # the scope `run`
    ADMIN = "admins"  # the scope `admin`


class Route(NamedTuple):
    """A verb and a path, who answers, for whom, with what type, and what the request may hold.

    `answers` has the statuses, each with the document (`200:Job`) or type that it carries, and the codes of the
    problems that this route has beyond every other; what follows from the rest of the row is left out, as is what any
    route may answer. `headers` are those of the request that act here, `body` is the type of its body.
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
