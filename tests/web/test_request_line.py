"""Request lines and paths: which are accepted, and that each line of a connection is found."""

from urllib.parse import quote

import pytest

from shellrunner.web.http.request_line import RequestLines, has_one_spelling


@pytest.mark.parametrize("name", ["a.b-c_d~e", "жук", "日本", "é", "a b", "😀", "a+b", "a:b@c"])
def test_what_a_client_encodes_has_one_spelling(name: str) -> None:
    """A name in any script is accepted as Python encodes it, and not in lower case or with more encoded."""
    encoded = quote(name, safe="")
    assert has_one_spelling(f"/api/queues/{encoded}/pause")
    others = {encoded.lower(), "".join(f"%{byte:02X}" for byte in name.encode())} - {encoded}
    assert [other for other in others if has_one_spelling(f"/{other}")] == []


def refused_at(data: bytes, cuts: list[int]) -> int | None:
    """Return where the first refused line is, when the bytes arrive in pieces that are cut there."""
    lines, position = RequestLines(), 0
    for cut in [*cuts, len(data)]:
        at = lines.first_refused(data[position:cut])
        if at is not None:
            return position + at
        position = cut
    return None


GET = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
GOOD = {
    "nothing": "",
    "a request": f"{GET}\r\n",
    "three requests": f"{GET}\r\n" * 3,
    "empty lines": f"\r\n\r\n{GET}\r\n\r\n\r\n",
    "a body": f"{GET}Content-Length: 24\r\n\r\nGET / RTSP/1.0\r\nA: b\r\n\r\n",
    "an empty body": f"{GET}content-length:0\r\n\r\n",
}


@pytest.mark.parametrize("before", GOOD.values(), ids=GOOD)
def test_a_request_line_is_found_wherever_it_is_cut(before: str) -> None:
    """Wherever the bytes are cut in two, and if each comes alone, it is found; a good one behind them is accepted."""
    bad = before.encode() + b"GET /api RTSP/1.0\r\n\r\n"
    line = len(before.rstrip())
    good = before.encode() + b"GET /api HTTP/1.0\r\n\r\n"
    for cuts in [[cut] for cut in range(len(bad))] + [list(range(len(bad)))]:
        found = refused_at(bad, cuts)
        assert found is not None
        assert line <= found + 1 <= len(bad)
        assert refused_at(good, cuts) is None


def test_nothing_is_looked_for_behind_a_body_without_a_length() -> None:
    """A chunked body ends the connection, so that its chunks are not taken for request lines."""
    start = f"{GET}Transfer-Encoding: chunked\r\n\r\n".encode()
    assert refused_at(start + b"5\r\nhello\r\n0\r\n\r\nGET / RTSP/1.0\r\n", [len(start), len(start) + 3]) is None
