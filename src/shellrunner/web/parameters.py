"""What a query may say, read strictly: a number, a yes or no, one of a few words, a page of a list.

Used by the resources; names are checked by the gate. Must not know what a parameter is for.
"""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

from aiohttp import web

from shellrunner.errors import BadCursor, BadParameter
from shellrunner.model import Job, State
from shellrunner.wire import body
from shellrunner.wire.resources import Document

FULL: Final = 1 << 22  # bytes after which a page ends early; its first row may be larger
_LATER: Final = frozenset({"waiting"})  # states that no job is in yet
_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}", re.ASCII)
_CURSOR = re.compile(r"([a-z,]+):([1-9][0-9]{0,17})", re.ASCII)
_FLAGS: Final = {"": True, "true": True, "1": True, "false": False, "0": False}


def number(request: web.Request, name: str, *, least: int, most: int) -> int | None:
    """A whole number, or None if it is not given."""
    text = request.query.get(name)
    if text is None:
        return None
    if not _NUMBER.fullmatch(text) or not least <= int(text) <= most:
        raise BadParameter(name, f"{name} must be a whole number from {least} to {most}")
    return int(text)


def flag(request: web.Request, name: str) -> bool:
    """A yes or no; the bare name is a yes."""
    text = request.query.get(name, "false")
    if text not in _FLAGS:
        raise BadParameter(name, f"{name} must be true or false")
    return _FLAGS[text]


def choice(request: web.Request, name: str, words: Sequence[str]) -> str | None:
    """One of these words, or None if it is not given."""
    text = request.query.get(name)
    if text is not None and text not in words:
        raise BadParameter(name, f"{name} must be one of {', '.join(words)}")
    return text


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list, newest first: up to `limit` of those in `states` with an id below `before`."""

    path: str
    given: dict[str, str]
    states: frozenset[State]
    limit: int
    before: int | None

    @classmethod
    def asked(cls, request: web.Request) -> "Page":
        """Read which page is meant."""
        states = _states(request)
        limit = number(request, "limit", least=1, most=1000) or 100
        given = {name: value for name, value in request.query.items() if name != "cursor"}
        return cls(request.path, given, states, limit, _before(request, states))

    async def answer(
        self, name: str, found: Sequence[Job], row: Callable[[Job], Awaitable[Document | None]]
    ) -> tuple[Document, dict[str, str]]:
        """The page's document and headers. `found` is one more than fits if there is a next page."""
        documents: list[Document] = []
        shown, room = 0, FULL
        for job in found[: self.limit]:
            document = await row(job)
            room -= len(body.dump(document))
            if room < 0 and documents:
                break
            shown += 1
            if document is not None:
                documents.append(document)
        if shown == len(found):
            return {name: documents, "next": None}, {}
        following = urlencode({**self.given, "cursor": _cursor(self.states, found[shown - 1].id)}, safe=",")
        link = f"{self.path}?{following}"
        return {name: documents, "next": link}, {"Link": f'<{link}>; rel="next"'}


def _states(request: web.Request) -> frozenset[State]:
    text = request.query.get("state")
    if text is None:
        return frozenset(State)
    try:
        return frozenset(State(word) for word in text.split(",") if word not in _LATER)
    except ValueError:
        raise BadParameter("state", f"state must be some of {', '.join(State)}, with commas") from None


def _cursor(states: frozenset[State], before: int) -> str:
    return urlsafe_b64encode(f"{','.join(sorted(states))}:{before}".encode()).rstrip(b"=").decode()


def _before(request: web.Request, states: frozenset[State]) -> int | None:
    text = request.query.get("cursor")
    if text is None:
        return None
    try:
        match = _CURSOR.fullmatch(urlsafe_b64decode(f"{text}===").decode("ascii"))
    except ValueError:
        match = None
    if match is None or text != _cursor(states, int(match[2])):
        raise BadCursor("cursor", "the cursor was not made by this list with this state")
    return int(match[2])
