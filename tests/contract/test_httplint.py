"""The responses of the tour, checked by httplint (RFC 9110 to 9112 and later ones)."""

import copy
from typing import Any

import pytest

linting = pytest.importorskip("httplint")
from httplint.note import levels  # noqa: E402

# Notes that are matters of taste, each with its reason.
IGNORED_NOTES = {
    # The specification has Location with 202: where the status of what was accepted is (RFC 7240 shows it so, too).
    "LOCATION_UNDEFINED",
    # A note on every 400.
    "STATUS_BAD_REQUEST",
    # RFC 9110, 12.5.3: a 415 for want of a coding says with it which ones are taken.
    "REQUEST_HDR_IN_RESPONSE",
}


def linted(exchange: Any) -> Any:
    """Return httplint's notes on a request and its response."""
    request = linting.HttpRequestLinter()
    request.process_request_topline(exchange.verb.encode(), exchange.target.encode(), b"1.1")
    request.process_headers([(name.encode(), value.encode()) for name, value in exchange.sent.items()])
    request.finish_content(True)
    response = linting.HttpResponseLinter(_related=request)
    response.is_head_response = exchange.verb == "HEAD"
    response.process_response_topline(b"1.1", str(exchange.status).encode(), exchange.reason.encode())
    response.process_headers([(name.encode(), value.encode()) for name, value in exchange.headers])
    response.feed_content(exchange.body)
    response.finish_content(True)
    return response.notes


@pytest.mark.parametrize("level", [levels.BAD, levels.WARN])
def test_nothing_is_wrong_with_any_answer(exchanges: Any, level: Any) -> None:
    """httplint reports no errors, and only the warnings that are listed with their reasons."""
    found = {
        (type(note).__name__, str(note), f"{each.verb} {each.target} {each.status}")
        for each in exchanges
        for note in linted(each)
        if note.level is level and type(note).__name__ not in IGNORED_NOTES
    }
    assert found == set()


def test_it_would_notice(exchanges: Any) -> None:
    """A response with a wrong length and an invalid date is reported."""
    spoilt = copy.copy(exchanges[0])
    spoilt.headers = [("Date", "yesterday"), ("Content-Length", "1")]
    assert {note.level for note in linted(spoilt)} >= {levels.BAD}
