"""Ambiguous and invalid requests: request lines, Hosts, framing, targets; sent byte by byte as they stand.

Every one of them is the request that starts a command, with one thing changed.
"""

import asyncio

import pytest

from tests.support.attack import (
    FULL_TOKEN,
    JOB,
    Target,
    check_audited,
    check_held,
    looking,
    read_reply,
    request,
    rows,
)

pytestmark = pytest.mark.asyncio(loop_scope="session")

SIZE = len(JOB)
CHUNKED = "Transfer-Encoding: chunked"


def chunked(body: bytes = b"SIZE\r\nJOB\r\n0\r\n\r\n", length: str = CHUNKED, *headers: str, **more: str) -> bytes:
    """Return the request with its body in chunks; `SIZE` becomes the size of `JOB`, in hexadecimal."""
    filled = body.replace(b"SIZE", b"%x" % SIZE).replace(b"JOB", JOB)
    return request("POST", "/api/jobs", *headers, body=filled, length=length, **more)


def hosted(value: str) -> bytes:
    """Return the request with this Host."""
    return request(host=f"Host: {value}")


def sized(value: str) -> bytes:
    """Return the request with this Content-Length."""
    return request(length=f"Content-Length: {value}")


def ruled(version: str) -> bytes:
    """Return the request in this version of the protocol."""
    return request(version=version)


# What the parser refuses: it never becomes a request.
NO_REQUESTS = {
    "421 wrong-host": {
        "no Host": request(host=None),
        "no Host in HTTP/1.0": request(host=None, version="HTTP/1.0"),
        "two Hosts": hosted("localhost:PORT\r\nHost: localhost:PORT"),
        "a second Host": hosted("localhost:PORT\r\nHost: evil.test"),
        "a first Host": hosted("evil.test\r\nhost: localhost:PORT"),
    },
    "417 expectation-failed": {
        "something else expected": request("POST", "/api/jobs", "Expect: tea"),
        "something expected that is no text": request("POST", "/api/jobs", "Expect: TEA").replace(b"TEA", b"\xff"),
        "something expected of nobody": request("POST", "/api/none", "Expect: TEA").replace(b"TEA", b"\xff"),
    },
    "400 bad-request": {
        "Host folded": hosted("localhost:PORT\r\n .evil.test"),
        "Host only in the fold": hosted("\r\n localhost:PORT"),
        "Host folded with a tab": hosted("\r\n\tlocalhost:PORT"),
        "space before Host's colon": request(host="Host : localhost:PORT"),
        "Host ends with NUL": hosted("localhost:PORT\0"),
        "Host ends with VT": hosted("localhost:PORT\x0b"),
        "asterisk": request(target="*"),
        "target without a slash": request(target="api/jobs"),
        "target is a query": request(target="?/api/jobs"),
        "target with a backslash": request(target="\\api\\jobs"),
        "target in another script": request(target="/api/ｊobs"),
        "target is a scheme and a path": request(target="http:/api/jobs"),
        "target with NUL": request(target="/api/jobs\0"),
        "target with CR": request(target="/api/jobs?a=\rb"),
        "HTTP/0.9": b"GET /api/jobs\r\n\r\n",
        "HTTP/0.9 with a body": b"POST /api/jobs\r\n\r\n" + JOB,
        "RTSP/1.0": ruled("RTSP/1.0"),
        "RTSP without Host": request(host=None, version="RTSP/1.0"),
        "RTSP, absolute form": request(target="rtsp://localhost:PORT/api/jobs", version="RTSP/1.0"),
        "HTTP/1.2": ruled("HTTP/1.2"),
        "HTTP/3.0": ruled("HTTP/3.0"),
        "HTTP/1.10": ruled("HTTP/1.10"),
        "HTTP/01.1": ruled("HTTP/01.1"),
        "HTTP/1,1": ruled("HTTP/1,1"),
        "HTTP/1.": ruled("HTTP/1."),
        "http/1.1": ruled("http/1.1"),
        "HTTP/1.1 and more": ruled("HTTP/1.1 HTTP/1.1"),
        "HTTP in other digits": ruled("HTTP/1.١"),
        "ICY": ruled("ICY"),
        "preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
        "TLS": b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03",
        "two lengths": request(length=f"Content-Length: {SIZE}\r\n{CHUNKED}"),
        "two lengths, the other way": chunked(length=f"{CHUNKED}\r\nContent-Length: {SIZE}"),
        "two lengths, one empty": request(length="Content-Length: 0\r\n" + CHUNKED, body=b"0\r\n\r\n" + JOB),
        "gzip and chunked": chunked(length=f"Transfer-Encoding: gzip\r\n{CHUNKED}"),
        "two types": request(kind="Content-Type: text/plain\r\nContent-Type: application/json"),
        "chunked and identity": chunked(length=f"{CHUNKED}\r\nTransfer-Encoding: identity"),
        "chunked twice": chunked(length=f"{CHUNKED}\r\n{CHUNKED}"),
        "xchunked": chunked(length="Transfer-Encoding: xchunked"),
        "identity": request(length="Transfer-Encoding: identity"),
        "chunked, gzip": chunked(length="Transfer-Encoding: chunked, gzip"),
        "chunked with a parameter": chunked(length="Transfer-Encoding: chunked;q=1"),
        "chunked with a comma": chunked(length="Transfer-Encoding: chunked,"),
        "chunked in quotes": chunked(length='Transfer-Encoding: "chunked"'),
        "chunked after VT": chunked(length="Transfer-Encoding: \x0bchunked"),
        "chunked in a fold": chunked(length="Transfer-Encoding:\r\n chunked"),
        "space before Transfer-Encoding's colon": chunked(length="Transfer-Encoding : chunked"),
        "chunk 0x": chunked(b"0xSIZE\r\nJOB\r\n0\r\n\r\n"),
        "chunk plus": chunked(b"+SIZE\r\nJOB\r\n0\r\n\r\n"),
        "chunk minus": chunked(b"-SIZE\r\nJOB\r\n0\r\n\r\n"),
        "chunk with a space before": chunked(b" SIZE\r\nJOB\r\n0\r\n\r\n"),
        "chunk with a space behind": chunked(b"SIZE \r\nJOB\r\n0\r\n\r\n"),
        "chunk with an underscore": chunked(b"0_SIZE\r\nJOB\r\n0\r\n\r\n"),
        "chunk beyond 64 bits": chunked(b"ffffffffffffffff1\r\nJOB\r\n0\r\n\r\n"),
        "chunk without a size": chunked(b"\r\nJOB"),
        "chunk of junk": chunked(b"zz\r\n"),
        "chunk longer than it says": chunked(b"SIZE\r\nJOBX\r\n0\r\n\r\n"),
        "chunks with LF": chunked(b"SIZE\nJOB\n0\n\n"),
        "chunks with CR": chunked(b"SIZE\rJOB\r0\r\r"),
        "chunks that end with LF": chunked(b"SIZE\r\nJOB\r\n0\n\n"),
        "LF in a chunk's extension": chunked(b"SIZE;a\nb\r\nJOB\r\n0\r\n\r\n"),
        "CR in a chunk's extension": chunked(b"SIZE;\rb\r\nJOB\r\n0\r\n\r\n"),
        "trailer that is no header": chunked(b"SIZE\r\nJOB\r\n0\r\nbad header\r\n\r\n"),
        "length plus": sized(f"+{SIZE}"),
        "length minus": sized(f"-{SIZE}"),
        "length in hexadecimal": sized(f"{SIZE:#x}"),
        "length with a fraction": sized(f"{SIZE}.0"),
        "length with an exponent": sized(f"{SIZE}e0"),
        "length with an underscore": sized(f"{SIZE}_0"),
        "length in other digits": sized("२६"),
        "lengths with a space": sized(f"{SIZE} {SIZE}"),
        "lengths with a comma": sized(f"{SIZE}, {SIZE}"),
        "length beyond 64 bits": sized(str((1 << 64) + SIZE)),
        "length empty": sized(""),
        "length in a fold": sized(f"\r\n {SIZE}"),
        "length twice": sized(f"{SIZE}\r\nContent-Length: {SIZE}"),
        "length twice, one empty": sized(f"0\r\ncontent-length: {SIZE}"),
        "space before Content-Length's colon": request(length=f"Content-Length : {SIZE}"),
        "no length": request(length=""),
        "LF": request().replace(b"\r\n", b"\n"),
        "CR": request().replace(b"\r\n", b"\r"),
        "CR CR LF": request().replace(b"\r\n", b"\r\r\n"),
        "LF in a header": request("POST", "/api/jobs", "X: a\nY: b"),
        "CR in a header": request("POST", "/api/jobs", "X: a\rY: b"),
        "NUL in a header": request("POST", "/api/jobs", "X: a\0b"),
        "NUL in a name": request("POST", "/api/jobs", "X\0: a"),
        "space before the verb": b" " + request(),
        "tabs in the line": request().replace(b" ", b"\t", 2),
        "first header folded": request().replace(b"Host", b" Host"),
        "header without a name": request("POST", "/api/jobs", ": x"),
        "header without a colon": request("POST", "/api/jobs", "x"),
        "header with a space": request("POST", "/api/jobs", "X Y: x"),
        "header in another script": request("POST", "/api/jobs", "Жук: x"),
        "verb in lower case": request("post"),
        "verb with a space": request("PO ST"),
        "verb of a teapot": request("BREW"),
        "verb of a hundred letters": request("X" * 100),
        "verb missing": request(""),
        "nothing but an end": b"\0" * 8 + b"\r\n\r\n",
    },
}


@pytest.mark.heavy
@pytest.mark.parametrize(("sent", "answer"), rows(NO_REQUESTS))
async def test_what_is_no_request(alone: Target, sent: bytes, answer: str) -> None:
    """A request that two parsers could read differently gets one rejection, ends the connection, starts nothing."""
    await check_held(alone, sent, answer)


REFUSED = {
    "421 wrong-host": {
        "Host empty": hosted(""),
        "Host without a port": hosted("localhost"),
        "Host with another port": hosted("localhost:1"),
        "Host with a port of six digits": hosted("localhost:0PORT"),
        "Host with two ports": hosted("localhost:PORT:PORT"),
        "Host of a user": hosted("evil.test@localhost:PORT"),
        "Host of a user, the other way": hosted("localhost:PORT@evil.test"),
        "Host with a dot": hosted("localhost.:PORT"),
        "Host with a zone": hosted("[::1%25lo]:PORT"),
        "Host with a raw zone": hosted("[::1%lo]:PORT"),
        "Host IPv6 spelled out": hosted("[0:0:0:0:0:0:0:1]:PORT"),
        "Host IPv4 mapped": hosted("[::ffff:127.0.0.1]:PORT"),
        "Host IPv6 without brackets": hosted("::1:PORT"),
        "Host in two parts": hosted("127.1:PORT"),
        "Host as one number": hosted("2130706433:PORT"),
        "Host in hexadecimal": hosted("0x7f000001:PORT"),
        "Host another loopback": hosted("127.0.0.2:PORT"),
        "Host of all": hosted("0.0.0.0:PORT"),
        "Host with a path": hosted("localhost:PORT/"),
        "Host with a scheme": hosted("http://localhost:PORT"),
        "Host with a tab": hosted("localhost\t:PORT"),
        "Host in quotes": hosted('"localhost:PORT"'),
        "Host list": hosted("localhost:PORT, evil.test"),
        "Host of another, rebound": hosted("evil.test:PORT"),
        "Host with our name in it": hosted("localhost.evil.test:PORT"),
        "Host with our port in it": hosted("localhost:PORT.evil.test"),
        "Host below ours": hosted("evil.localhost:PORT"),
        "Host with a mark before it": hosted("\ufefflocalhost:PORT"),
        "Host in wide letters": hosted("ｌocalhost:PORT"),
        "Host with a long s": hosted("localhoſt:PORT"),
        "Host with a no-break space": hosted("localhost:PORT\xa0"),
        "Host in a header of proxies": hosted("evil.test:PORT\r\nX-Forwarded-Host: localhost:PORT"),
        "Host in Forwarded": hosted('evil.test:PORT\r\nForwarded: host="localhost:PORT"'),
        "wrong Host, upgraded": request(
            "POST", "/api/jobs", "Connection: Upgrade", "Upgrade: h2c", "HTTP2-Settings: AAMA", host="Host: evil.test"
        ),
        "wrong Host, expecting": request("POST", "/api/jobs", "Expect: 100-continue", host="Host: evil.test"),
    },
    "400 bad-request": {
        "absolute form": request(target="http://localhost:PORT/api/jobs"),
        "absolute form of another": request(target="http://evil.test/api/jobs"),
        "absolute form, wrong Host": request(target="http://localhost:PORT/api/jobs", host="Host: evil.test"),
        "CONNECT": request("CONNECT", "localhost:PORT"),
        "fragment": request(target="/api/jobs#x"),
        "fragment behind a query": request(target="/api/jobs?#"),
        "HTTP/0.9 by name": ruled("HTTP/0.9"),
        "HTTP/2.0": ruled("HTTP/2.0"),
        "gzip, chunked": chunked(length="Transfer-Encoding: gzip, chunked"),
        "no coding, and a length": request(length=f"Transfer-Encoding:\r\nContent-Length: {SIZE}"),
        "chunked in HTTP/1.0": chunked(version="HTTP/1.0"),
        **{target: request(target=target) for target in ("/%61pi/jobs", "//api/jobs", "/api%2Fjobs", "/api\\jobs")},
    },
    "415 unsupported-media-type": {
        "no type": request(kind=None),
        "plain text": request(kind="Content-Type: text/plain"),
        "plain text with a charset": request(kind="Content-Type: text/plain;charset=UTF-8"),
        "form": request(kind="Content-Type: application/x-www-form-urlencoded"),
        "form of parts": request(kind="Content-Type: multipart/form-data; boundary=x"),
        "type only as a parameter": request(kind="Content-Type: text/plain; application/json"),
        "two types in one": request(kind="Content-Type: text/plain, application/json"),
        "another charset": request(kind="Content-Type: application/json; charset=utf-7"),
        "a relative of JSON": request(kind="Content-Type: application/json+x"),
        "packed": request("POST", "/api/jobs", "Content-Encoding: gzip"),
        "packed twice": request("POST", "/api/jobs", "Content-Encoding: identity\r\nContent-Encoding: br"),
        "upgraded": looking("/api/jobs", "Connection: Upgrade", "Upgrade: h2c", verb="POST"),
    },
    "413 too-large": {"a long body": request(body=JOB + b" " * (1 << 20))},
    "400 bad-parameter": {
        "job in the query": request(target="/api/jobs?command=touch%20canary"),
        "header in the query": request(target="/api/jobs?x=%0d%0aSet-Cookie:%20a=b"),
        "two question marks": request(target="/api/jobs??"),
    },
    "405 method-not-allowed": {
        "the page": request(target="/"),
        **{verb: request(verb) for verb in ("PUT", "PATCH", "PROPFIND", "TRACE", "QUERY", "MKCOL", "M-SEARCH")},
    },
    "404 not-found": {
        target: request(target=target)
        for target in ("/API/jobs", "/api/Jobs", "/api/jobs/", "/api/jobs%20", "/api/%EF%BD%8Aobs", "/:80/api/jobs")
    },
}


@pytest.mark.heavy
@pytest.mark.parametrize(("sent", "answer"), rows(REFUSED))
async def test_what_is_asked_wrongly(alone: Target, sent: bytes, answer: str) -> None:
    """A valid request with another Host, path or purpose is rejected, starts nothing, and is in the audit log."""
    await check_audited(alone, await check_held(alone, sent, answer))


SAFE_REQUESTS = {
    f"{name} to {verb} {target}": (verb, request(verb, target, *headers))
    for name, headers in {
        "a body": (),
        "X-HTTP-Method-Override": ("X-HTTP-Method-Override: POST",),
        "X-HTTP-Method": ("X-HTTP-Method: POST",),
        "X-Method-Override": ("X-Method-Override: DELETE",),
    }.items()
    for verb, target in (("GET", "/api/jobs"), ("HEAD", "/api/jobs"), ("OPTIONS", "/api/jobs"), ("GET", "/api"))
}


@pytest.mark.parametrize(("verb", "sent"), SAFE_REQUESTS.values(), ids=SAFE_REQUESTS)
async def test_looking_changes_nothing(alone: Target, verb: str, sent: bytes) -> None:
    """A safe method changes nothing, whatever its body and its headers say."""
    await check_held(alone, sent, "204" if verb == "OPTIONS" else "200")


@pytest.mark.parametrize("name", ["_method", "method", "command", "verb"])
async def test_no_verb_comes_from_a_query(alone: Target, name: str) -> None:
    """A method in the query is only an unknown parameter."""
    await check_held(alone, request("GET", f"/api/jobs?{name}=POST"), "400 bad-parameter")


PIPELINED = {
    "in a body that has no length": looking("/healthz"),
    "behind an upgrade": looking(
        "/api", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAA"
    ),
    "behind a refusal": request("POST", "/api/jobs", "Origin: null"),
    "behind a wrong type": request(kind="Content-Type: text/plain"),
    "behind another": looking("/api/statuses"),
}


@pytest.mark.parametrize("first", PIPELINED.values(), ids=PIPELINED)
async def test_what_comes_behind_is_a_request_too(alone: Target, first: bytes) -> None:
    """The second request of a connection is checked without regard to the first."""
    before = await alone.state()
    outcome = await alone.send(first + request(host="Host: evil.test"))
    assert len(outcome.replies) == 2
    assert outcome.replies[1].short == "421 wrong-host"
    assert await alone.state() == before


@pytest.mark.parametrize(
    "first",
    [
        request("CONNECT", "localhost:PORT"),
        request(target="http://localhost:PORT/api/jobs"),
        chunked(length="Transfer-Encoding: gzip, chunked"),
        chunked(b"SIZE\r\nJOB\r\n0\r\n\r\n", CHUNKED, "Connection: keep-alive", version="HTTP/1.0"),
        ruled("HTTP/2.0"),
    ],
    ids=["CONNECT", "absolute form", "gzip, chunked", "chunked in HTTP/1.0", "HTTP/2.0"],
)
async def test_nothing_comes_behind_what_is_in_doubt(alone: Target, first: bytes) -> None:
    """After a request whose end is ambiguous, the connection ends, and a request behind it is not read."""
    await check_held(alone, first + request(), "400 bad-request")


@pytest.mark.parametrize("name", ["Authorization", "Origin", "Sec-Fetch-Site", "Idempotency-Key", "Prefer"])
async def test_trailers_are_no_headers(guarded: Target, name: str) -> None:
    """Trailers behind a chunked body are not taken for headers of the request."""
    trailer = f"{name}: Bearer {FULL_TOKEN}\r\n".encode()
    await check_held(guarded, chunked(b"SIZE\r\nJOB\r\n0\r\n" + trailer + b"\r\n"), "401 token-needed")


async def test_trailers_are_no_headers_of_the_next_request(alone: Target) -> None:
    """Trailers behind a chunked body are not taken for headers of the next request."""
    first = chunked(b"2\r\n{}\r\n0\r\nX: y\r\nOrigin: null\r\n\r\n")
    await check_held(alone, first + looking(), "422 invalid-job")


async def test_a_request_in_bits(alone: Target) -> None:
    """A request that arrives byte by byte is checked as any other: a wrong Host in it is rejected."""
    sent = alone.filled(request(host="Host: localhost:PORT.evil.test"))
    before = await alone.state()
    reader, writer = await asyncio.open_connection("127.0.0.1", alone.port)
    for byte in sent:
        writer.write(bytes([byte]))
        await writer.drain()
    reply = await read_reply(reader)
    writer.close()
    assert reply is not None
    assert reply.check().short == "421 wrong-host"
    assert await alone.state() == before
