"""What a row of the route table says.

Used by `make_app`, the gate and the OpenAPI document. Must not know any resource.
"""

from typing import Final, NamedTuple

from shellrunner.web.guard import Handler

JSON: Final = "application/json"
TEXT: Final = "text/plain"
SSE: Final = "text/event-stream"
EMPTY: Final = ""
ID: Final = "{id:[1-9][0-9]{0,17}}"
ATTEMPT: Final = "{number:[1-9][0-9]{0,17}}"


class Route(NamedTuple):
    """A verb and a path, who answers, with what type, and what the request may hold.

    `answers` has the statuses, each with the document (`200:Job`) or type that it carries, and the codes of the
    problems that this route has beyond every other; what follows from the rest of the row is left out, as is what any
    route may answer. `headers` are those of the request that act here, `takes` is the type of its body.
    """

    verb: str
    path: str
    handler: Handler
    produces: str
    parameters: str = ""
    answers: str = ""
    headers: str = ""
    takes: type | None = None
