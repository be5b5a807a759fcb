"""Server-sent events, as the tests read them from a response."""

import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any

import aiohttp


@dataclass
class Event:
    """One event; `data` is its JSON."""

    name: str
    data: Any
    id: str | None


async def parse(content: aiohttp.StreamReader) -> AsyncIterator[Event]:
    """Yield the events of a stream of ours: the HTML standard's format, of which it uses a part.

    Lines end in LF, no field comes twice in one event, and no field is unknown; anything else is an error.
    """
    fields: dict[str, str] = {}
    while line := await content.readline():
        text = line.decode().removesuffix("\n")
        if not text:
            if "data" in fields:
                yield Event(fields.get("event", "message"), json.loads(fields["data"]), fields.get("id"))
            fields = {}
        elif not text.startswith(":"):
            name, _, value = text.partition(":")
            assert name in {"event", "data", "id", "retry"}, line
            assert name not in fields, line
            fields[name] = value.removeprefix(" ")


def output_text(events: Iterable[Event], *streams: str) -> str:
    """Join what a job wrote to these streams (default: stdout)."""
    return "".join(event.data["text"] for event in events if event.name in (streams or ("stdout",)))
