"""The client's SSE parser on the test vectors that it shares with the page's parser, and on any chunks."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shellrunner.client import ClientError
from shellrunner.client.sse_parser import MAX_EVENT_SIZE, SseParser

VECTORS = json.loads((Path(__file__).parents[1] / "support" / "sse_vectors.json").read_text("utf-8"))


def parse(chunks: Any) -> tuple[Any, ...]:
    """Return the events of the chunks, and the last event id after them."""
    parser = SseParser()
    events = [event._asdict() for chunk in chunks for event in parser.feed(chunk)]
    return events, parser.last_event_id


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_each_vector_gives_its_events(vector: Any) -> None:
    """Exactly the events, and the last event id, that the HTML standard gives."""
    assert parse(chunk.encode() for chunk in vector["chunks"]) == (vector["events"], vector["last_id"])


LINES = st.sampled_from(
    [
        "",
        "data",
        "data: a",
        "data:я",
        "event: e",
        "id: 1",
        "id:",
        "id: \0",
        ":",
        ": c",
        "retry: 1",
        "x",
        "\ufeffdata: b",
    ]
)
STREAMS = st.lists(st.tuples(LINES, st.sampled_from(["\n", "\r", "\r\n"])), max_size=30)


@given(STREAMS, st.lists(st.integers(0, 20), max_size=40))
def test_any_chunks_give_the_events_of_the_whole(lines: Any, sizes: Any) -> None:
    """Within a character, between CR and LF, or nowhere: where a stream is cut makes no difference."""
    whole = "".join(line + end for line, end in lines).encode()
    chunks, rest = [], whole
    for size in sizes:
        chunks.append(rest[:size])
        rest = rest[size:]
    assert parse([*chunks, rest]) == parse([whole])


@pytest.mark.parametrize("size", [1, 7])
def test_a_stream_in_small_chunks_gives_the_vectors_events(size: int) -> None:
    """Each vector's bytes, `size` at a time."""
    for vector in VECTORS:
        whole = "".join(vector["chunks"]).encode()
        chunks = [whole[start : start + size] for start in range(0, len(whole), size)]
        assert parse(chunks) == (vector["events"], vector["last_id"]), vector["name"]


def test_bytes_that_are_no_utf_8_become_replacement_characters() -> None:
    """They end neither the line nor the stream."""
    assert parse([b"data: a\xff\xc3\n\n"])[0][0]["data"] == "a\ufffd\ufffd"


def test_the_last_event_id_of_the_previous_connection_stays_until_another_comes() -> None:
    """A connection that brought no id is resumed where the one before it was."""
    parser = SseParser("17")
    assert [event.id for event in parser.feed(b"data: a\n\nid: 18\n\n")] == ["17"]
    assert parser.last_event_id == "18"


@pytest.mark.parametrize("line", [b"data: " + b"x" * 65_000 + b"\n", b"x" * 65_000])
def test_an_endless_event_is_an_error(line: bytes) -> None:
    """Neither one long line nor many lines of data fill the memory."""
    with pytest.raises(ClientError, match=f"an event of more than {MAX_EVENT_SIZE} bytes") as caught:
        parse([line] * (MAX_EVENT_SIZE // 60_000))
    assert not caught.value.is_transient


def test_the_limit_is_for_one_event() -> None:
    """A stream of many events, comments and unknown fields may be as long as it likes."""
    parser = SseParser()
    event = b"data: " + b"x" * (MAX_EVENT_SIZE // 2) + b"\n\n:" + b"x" * 65_000 + b"\n"
    assert sum(1 for _ in range(5) for _ in parser.feed(event)) == 5
