"""A fuzzer of requests: valid ones with some bytes changed, and odd ones from a grammar, on raw sockets.

It runs for some seconds; `SHELLRUNNER_FUZZ=600` makes it ten minutes, in which it also waits for what is slow to end.
Every command is run by /bin/true, which does nothing with it.
"""

import asyncio
import json
import os
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shellrunner.web import ROUTES
from tests.support.attack import EACH_SCOPE, PROBE, Target, bearer, looking, read_reply, request, running

SECONDS = float(os.environ.get("SHELLRUNNER_FUZZ", "4"))
IS_LONG = SECONDS > 60
FIRST_TIMEOUT = 0.5  # seconds; what is not answered by then waits for more, perhaps
LAST_TIMEOUT = (
    30.0  # seconds in which it must have come to an end: 10 for a head, 10 for a body, and the rest of it is read
)
CONCURRENCY = 8
UNBOUNDED = re.compile(rb"/events|confirm=true")  # a stream has no end, and to delete thousands takes its time
RUN_TOKEN = EACH_SCOPE["read run"]

# The grammar: valid and invalid parts

TARGETS = sorted(
    {re.sub(r"\{(\w+)[^/]*", lambda part: "default" if part[1] == "name" else "1", row.path) for row in ROUTES}
)
QUERIES = [
    "",
    "?",
    "?limit=1",
    "?confirm=true",
    "?q=%D0%B6",
    "?tail=1&follow=true",
    "?label=a:b&label=c:d",
    "?sort=-created",
]
QUERIES += [
    "?end=true&offset=0",
    "?last_event_id=0",
    "?encoding=base64",
    "?cursor=AAAA",
    "?download",
    "?fields=job_id",
    "?%00=%",
]
HOSTS = [
    "localhost:PORT",
    "127.0.0.1:PORT",
    "[::1]:PORT",
    "LOCALHOST:PORT",
    "evil.test",
    "localhost",
    "",
    "localhost:PORT, x",
]
HEADERS = {
    "Host": HOSTS,
    "Authorization": [
        f"Bearer {RUN_TOKEN}",
        f"bearer  {RUN_TOKEN}",
        "Bearer x",
        f"Basic {RUN_TOKEN}",
        f"Bearer {EACH_SCOPE['read']}",
        "Bearer",
    ],
    "Content-Type": [
        "application/json",
        "application/json; charset=utf-8",
        "text/plain",
        "application/octet-stream",
        "",
        "a/b;=",
    ],
    "Content-Length": ["0", "2", "26", "1000000", "-1", "+2", "0x2", "2, 2", "99999999999999999999", ""],
    "Transfer-Encoding": ["chunked", "Chunked", "identity", "gzip, chunked", "chunked, chunked", "\x0bchunked", ""],
    "Content-Encoding": ["gzip", "identity", "br", "deflate, gzip", "zstd", ""],
    "Connection": ["close", "keep-alive", "Upgrade", "close, keep-alive", "Host", ""],
    "Upgrade": ["websocket", "h2c", ""],
    "Origin": ["http://localhost:PORT", "null", "http://evil.test", ""],
    "Sec-Fetch-Site": ["none", "same-origin", "cross-site", ""],
    "Expect": ["100-continue", "x", ""],
    "Idempotency-Key": ['"a"', "b", '"', "é", "x" * 256, ""],
    "Prefer": ["wait=1", "wait=x, wait=2", "wait=-1", ";;,", ""],
    "Accept": ["*/*", "text/html", "application/json;q=0", ";,;", "*/*;q=x", ""],
    "If-Match": ["*", '"x"', "W/", ""],
    "If-None-Match": ["*", '"x", W/"y"', ",", ""],
    "Range": ["bytes=0-0", "bytes=-1", "bytes=9-1", "bytes=0-0,1-1", "lines=1", ""],
    "If-Range": ['"x"', "Tue, 24 Nov 2026 11:25:04 GMT", ""],
    "Last-Event-ID": ["0", "end", "1.2.3", "9" * 30, "x", ""],
    "Cookie": ["shellrunner-PORT=x", "a=b; c", "=;=", ""],
    "X-Forwarded-For": ["127.0.0.1", "::1, x", ""],
    "Content-Disposition": ["x", ""],
    "X": ["y", "ж", "\t", "y" * 9000],
}
# No `argv`: that would be run as it stands, with its bytes changed.
BODIES = [
    {"command": "true"},
    {"command": "true", "labels": {"a": "b"}, "timeout": 5, "priority": 1, "stdin": "x", "env": {"A": "b"}},
    {"command": "true", "stdin": {"stream": True}, "queue": "default", "retries": {"max": 1, "delay": 0.1}},
    {"command": "true", "tty": {"rows": 1, "columns": 1}, "limits": {"open_files": 20}, "cwd": "/"},
    {"command": "true", "after": [1], "start_at": "2020-01-01T00:00:00Z", "encoding": "koi8-r"},
    {"signal": "SIGHUP"},
    {},
    [],
    None,
]
MALFORMED_LINES = [
    b"",
    b"{",
    b'{"a":NaN}',
    b"[" * 5000,
    b'{"command":"\\ud800"}',
    b"\xff\xfe",
    b'{"command":"a","command":"b"}',
    b"\0" * 64,
]

bodies = st.one_of(
    st.sampled_from([json.dumps(body).encode() for body in BODIES]),
    st.sampled_from(MALFORMED_LINES),
    st.binary(max_size=40),
)


def valued(name: str) -> st.SearchStrategy[tuple[str, str]]:
    """Return a header with any of its values."""
    return st.tuples(st.just(name), st.sampled_from(HEADERS[name]))


headers = st.sampled_from(list(HEADERS)).flatmap(valued)
targets = st.one_of(
    st.builds(str.__add__, st.sampled_from(TARGETS), st.sampled_from(QUERIES)),
    st.sampled_from(
        ["*", "//", "/%61pi/jobs", "/api/./jobs", "http://localhost:PORT/api", "/api/jobs#", "localhost:PORT"]
    ),
    st.text("/%aж?#&=;.\\\0 ", max_size=12).map("/".__add__),
)
# What may be odd in a request, and what it is then.
ODDITIES: dict[str, st.SearchStrategy[Any]] = {
    "verb": st.sampled_from(
        ["GET", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH", "TRACE", "CONNECT", "post", "PRI", ""]
    ),
    "target": targets,
    "asked": st.tuples(st.sampled_from(["GET", "POST", "DELETE"]), targets),
    "version": st.sampled_from(["HTTP/1.0", "HTTP/2.0", "HTTP/0.9", "HTTP/1.2", "RTSP/1.0", "HTTP/1.", ""]),
    "header": headers,
    "header too": headers,
    "without": st.sampled_from(["Host", "Authorization", "Content-Type", "Content-Length"]),
    "instead": st.sampled_from(["Host", "Authorization", "Content-Type"]).flatmap(valued),
    "beside": st.sampled_from(["Origin", "Sec-Fetch-Site", "Content-Encoding"]).flatmap(valued),
    "body": bodies,
    "chunk": st.sampled_from([b"%x", b"0%X", b"%x;a=b", b"%x ", b"+%x", b"0x%x", b"-%x", b"fffffffffffffff%x"]),
    "trailer": st.sampled_from([b"", b"X: y\r\n", b"Host: evil.test\r\n", b"bad\r\n"]),
    "end": st.sampled_from([b"\n", b"\r", b"\r\r\n", b"\r\n ", b"\0\r\n"]),
    "colon": st.sampled_from([b":", b" : ", b":\t", b"\0: ", b""]),
}


@st.composite
def one_request(draw: st.DrawFn) -> bytes:
    """Return a request that would start a job, except for what is odd in it."""
    odd: dict[str, Any] = {
        name: draw(ODDITIES[name]) for name in draw(st.lists(st.sampled_from(list(ODDITIES)), max_size=3))
    }
    verb, target = odd.get("asked", ("POST", "/api/jobs"))
    body = odd.get("body", b'{"command":"true"}')
    headers = {"Host": "localhost:PORT", "Authorization": f"Bearer {RUN_TOKEN}", "Content-Type": "application/json"}
    if "chunk" in odd or "trailer" in odd:
        headers["Transfer-Encoding"] = "chunked"
        size = odd.get("chunk", b"%x") % len(body)
        body = size + b"\r\n" + body + b"\r\n0\r\n" + odd.get("trailer", b"") + b"\r\n"
    elif body:
        headers["Content-Length"] = str(len(body))
    headers |= dict([odd["instead"]] if "instead" in odd else [])
    headers.pop(odd.get("without", ""), None)
    lines = [f"{odd.get('verb', verb)} {odd.get('target', target)} {odd.get('version', 'HTTP/1.1')}".encode()]
    also = [odd[name] for name in ("header", "header too", "beside") if name in odd]
    lines += [name.encode() + odd.get("colon", b": ") + value.encode() for name, value in (*headers.items(), *also)]
    return bytes(odd.get("end", b"\r\n").join([*lines, b"", b""]) + body)


@st.composite
def bombardments(draw: st.DrawFn) -> list[bytes]:
    """Return some requests on one connection, with some bytes changed, in some pieces."""
    sent = bytearray(b"".join(draw(st.lists(one_request(), min_size=1, max_size=2))))
    for _ in range(max(0, draw(st.integers(-3, 3)))):
        at = draw(st.integers(0, len(sent)))
        width = draw(st.integers(0, 8))
        sent[at : at + width] = draw(
            st.one_of(st.binary(max_size=8), st.sampled_from([b"\r\n", b"\n", b"\0", b" ", b":", b"\r\n\r\n"]))
        )
    if draw(st.booleans()):
        at = draw(st.integers(0, len(sent)))
        return [bytes(sent[:at]), bytes(sent[at:])]
    return [bytes(sent)]


# What is right, determined in another way than the service's


HEAD = re.compile(rb"POST +(\S+) +(?:HTTP/1\.[01]|RTSP/1\.0)\r\n((?:[^\r\n]+\r\n)*)\r\n")


def might_submit(head: "re.Match[bytes]", port: int) -> bool:
    """Whether this may be the head of a request that starts a job."""
    found: dict[bytes, list[bytes]] = {}
    for line in head[2].splitlines():
        name, _, value = line.partition(b":")
        found.setdefault(name.lower(), []).append(value.strip(b" \t"))
    own = [f"{name}:{port}".encode() for name in ("localhost", "127.0.0.1", "[::1]")]
    return (
        re.sub(rb"%([0-9a-fA-F]{2})", lambda part: bytes([int(part[1], 16)]), head[1]).partition(b"?")[0]
        == b"/api/jobs"
        and len(found.get(b"host", [])) == 1
        and found[b"host"][0].lower() in own
        and re.fullmatch(rb"(?i:bearer) +" + RUN_TOKEN.encode(), b"|".join(found.get(b"authorization", [])))
        is not None
        and found.get(b"content-type", [b""])[0].lower().startswith(b"application/json")
        and set(found.get(b"origin", [])) <= {b"http://" + found[b"host"][0].lower()}
        and {site.lower() for site in found.get(b"sec-fetch-site", [])} <= {b"none", b"same-origin"}
    )


def submissions(sent: bytes, port: int) -> int:
    """How many jobs this may start at most."""
    starts = (HEAD.match(sent, found.start()) for found in re.finditer(rb"POST ", sent))
    return sum(head is not None and might_submit(head, port) for head in starts)


class Fuzzer:
    """Sends requests, and checks what they cause."""

    def __init__(self, target: Target) -> None:
        """Start with nothing sent."""
        self.target = target
        self.right = 0  # how many jobs may have been started at most
        self.seen: Counter[str] = Counter()
        self._unfinished: list[tuple[float, bytes, asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def bombard(self, parts: list[bytes]) -> None:
        """Send this over one connection, and check that each response is one of the service's.

        Behind it comes a request to close, so that what is left open is what has not been read to its end.
        """
        sent = [self.target.filled(part) for part in (*parts, PROBE)]
        most = submissions(b"".join(sent), self.target.port)
        self.right += most
        self.seen["connections"] += 1
        reader, writer = await asyncio.open_connection("127.0.0.1", self.target.port)
        is_expired = False
        try:
            for part in sent:
                writer.write(part)
                await asyncio.sleep(0)
            async with asyncio.timeout(FIRST_TIMEOUT):
                accepted = await self._read(reader, b"".join(sent))
            assert accepted <= most, sent
            is_expired = True
        except TimeoutError:
            self.seen["not finished"] += 1
        finally:
            if not is_expired and IS_LONG and not UNBOUNDED.search(b"".join(sent)):
                self._unfinished.append((time.monotonic(), b"".join(sent), reader, writer))
            else:
                writer.close()

    async def _read(self, reader: asyncio.StreamReader, sent: bytes) -> int:
        accepted = 0
        while (reply := await read_reply(reader, bodiless=b"HEAD " in sent)) is not None:
            reply.check()
            assert reply.status < 500, reply
            self.seen[reply.short] += 1
            accepted += reply.status == 202 and b'"command"' in reply.body
            if b"HEAD " in sent or reply.all("Content-Type") == ["text/event-stream"]:
                break  # where the next answer begins is unknown, or this one has no end
        return accepted

    async def send_all(self, salvo: list[list[bytes]]) -> None:
        """Send all of these at once."""
        async with asyncio.TaskGroup() as group:
            for parts in salvo:
                group.create_task(self.bombard(parts))

    async def look_back(self) -> None:
        """Check that the service works, and has started no more than it might."""
        assert (await self.target.ask(PROBE)).body == b"ok\n"
        reply = await self.target.ask(looking("/api/jobs?limit=1", *self.target.own))
        newest = max((row["job_id"] for row in json.loads(reply.body)["jobs"]), default=0)
        assert newest <= self.right

    async def wait_out(self, seconds: float = LAST_TIMEOUT) -> None:
        """Check that connections that were left open have ended after this time."""
        while self._unfinished:
            since, sent, reader, writer = self._unfinished.pop(0)
            await asyncio.sleep(max(0.0, since + seconds - time.monotonic()))
            try:
                await asyncio.wait_for(reader.read(), FIRST_TIMEOUT)
            except ConnectionError:
                pass  # it was cut
            except TimeoutError:
                pytest.fail(f"this hangs: {sent!r}")
            writer.close()


def test_what_is_right() -> None:
    """The fuzzer's valid request starts a job, and none with one invalid part does."""
    right = request("POST", "/api/jobs", bearer(RUN_TOKEN)).replace(b"PORT", b"1")
    assert submissions(right + right, 1) == 2
    for part in (
        b"localhost:1",
        b"Bearer",
        RUN_TOKEN.encode(),
        b"/api/jobs",
        b"POST",
        b"HTTP/1.1",
        b"application/json",
    ):
        assert submissions(right.replace(part, part[:-1] + b"_"), 1) == 0
    for header in (b"Host: localhost:1", b"Origin: null", b"Sec-Fetch-Site: same-site", b"Authorization: x"):
        assert submissions(right.replace(b"\r\n\r\n", b"\r\n" + header + b"\r\n\r\n"), 1) == 0


@pytest.mark.heavy
@pytest.mark.timeout(SECONDS + 120)
def test_fuzz(tmp_path: Path) -> None:
    """Whatever is sent, responses are the service's own, nothing hangs or is 5xx, and only valid POSTs start jobs."""
    with asyncio.Runner() as runner:
        serves = running(tmp_path, tokens=True, JOBS__SHELL='["/bin/true"]')
        fuzzer = Fuzzer(runner.run(serves.__aenter__()))
        end = time.monotonic() + SECONDS

        @settings(max_examples=50, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(st.lists(bombardments(), min_size=CONCURRENCY, max_size=CONCURRENCY))
        def send_all(salvo: list[list[bytes]]) -> None:
            if time.monotonic() < end:
                runner.run(fuzzer.send_all(salvo))

        try:
            while time.monotonic() < end:
                send_all()
                runner.run(fuzzer.look_back())
            runner.run(fuzzer.wait_out())
        finally:
            runner.run(serves.__aexit__(None, None, None))
    print(*(f"{count:7} {what}" for what, count in fuzzer.seen.most_common()), sep="\n")
    assert fuzzer.seen["202"]
