"""A job that a token may not read does not exist for it: every route answers as for an id that was never given."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from shellrunner.model import End, Ending
from shellrunner.web import ROUTES, Route
from shellrunner.web.route import Access
from tests.support.attack import Reply, bearer, looking, read_reply, request
from tests.support.site import Site, serving
from tests.support.tokens import hash_of, secret_of

# What each token may do; none but `owner` may read.
SCOPES: dict[str, Any] = {
    "owner": {"scopes": ["read", "run", "admin"]},
    "run": {"scopes": ["run"]},
    "admin": {"scopes": ["admin"]},
    "both": {"scopes": ["run", "admin"]},
    "bound": {"scopes": ["run"], "commands": [{"command": "true", "options": ["signal", "stdin"]}]},
}
BLIND = [name for name in SCOPES if name != "owner"]
AUTH = {
    "tokens": [{"name": name, "hash": hash_of(name), **more} for name, more in SCOPES.items()],
    "session_cookie": True,
    "tokens_file": None,
}
MISSING = 98  # with as many digits as the ids of all the jobs that there are
PER_JOB = [row for row in ROUTES if "{id:" in row.path and row.access is not Access.PUBLIC]
BODIES = {
    "signal": b'{"signal":"SIGKILL"}',
    "tty": b'{"rows":1,"columns":1}',
    "stdin": b"x",
    "cancel": b"",
    "again": b"{}",
}


class Line:
    """One connection, on which one request follows the other."""

    def __init__(self, site: Site, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._site, self._reader, self._writer = site, reader, writer

    async def ask(self, sent: bytes) -> Reply:
        """Send a request; return the response."""
        self._writer.write(sent.replace(b"PORT", str(self._site.port).encode()))
        reply = await read_reply(self._reader, bodiless=sent.startswith(b"HEAD "))
        assert reply is not None
        return reply


@asynccontextmanager
async def connected(site: Site) -> AsyncIterator[Line]:
    """Connect to the site."""
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    try:
        async with asyncio.timeout(20):
            yield Line(site, reader, writer)
    finally:
        writer.close()


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with serving(tmp_path, auth=AUTH, callbacks={"hosts": ["a.example"], "secret": f"whsec_{'A' * 32}"}) as it:
        yield it


async def submitted(line: Line, **spec: Any) -> int:
    """Submit a job of the owner."""
    body = json.dumps({"command": "true", **spec}).encode()
    reply = await line.ask(request("POST", "/api/jobs", bearer(secret_of("owner")), body=body))
    assert reply.status == 202, reply
    return int(json.loads(reply.body)["job_id"])


async def victims(site: Site, line: Line) -> dict[str, int]:
    """Make the owner's jobs, one in each state, with ids of two digits; return them by what is special."""
    for _ in range(9):
        await site.store.delete_job((await site.store.request_cancel(await submitted(line))).id)
    made: dict[str, int] = {}
    for name in ("done", "retried", "without its result", "deleted", "running"):
        made[name] = await submitted(line, stdin={"stream": True}, retries={"max": 1, "delay": 0})
        runner = site.simulated_runner()
        assert (await runner.claim()).job_id == made[name]
        runner.write(b"secret\n", b"secret\n")
        if name == "retried":
            await runner.finish(End(Ending.EXITED, 1, exit_code=1, started=1, duration=0.1), next_attempt_at=0)
            await runner.claim()
        if name != "running":
            await runner.finish()
    await site.store.delete_result(made["without its result"])
    await site.store.delete_job(made["deleted"])
    made["waiting"] = await submitted(line, after=[made["running"]])
    made["held back"] = await submitted(line, start_at="2100-01-01T00:00:00Z")
    made["queued"] = await submitted(line)
    made["cancelled"] = await submitted(line)
    await site.store.request_cancel(made["cancelled"])
    assert {len(str(number)) for number in made.values()} == {2}
    return made


def asked(row: Route, verb: str, job: int, *headers: str) -> Iterator[bytes]:
    """Yield requests about a job: one that would succeed with permission, and others that are wrong elsewhere too."""
    path = re.sub(r"\{(\w+)[^/]*", lambda part: {"id": str(job)}.get(part[1], "1"), row.path)
    body = BODIES.get(path.rpartition("/")[2], b"") if verb == "POST" else b""
    if verb == "PATCH":
        body = b'{"priority":1}'
    yield request(verb, path, *headers, body=body)
    yield request(verb, path, *headers, body=body and b"{", kind="Content-Type: text/plain")
    yield looking(f"{path}?unknown=1", *headers, verb=verb)
    yield looking(path, *headers, "If-Match: *", "If-None-Match: *", "Accept: image/png", verb=verb)
    yield looking(path, *headers, "Prefer: wait=1", "Range: bytes=0-1", "Last-Event-ID: end", verb=verb)


def seen(reply: Reply, job: int) -> tuple[int, list[tuple[str, str]], bytes]:
    """Return all of a response but the date, with the id replaced."""
    headers = [(name, value.replace(f"/{job}", "/ID")) for name, value in reply.headers if name != "Date"]
    return reply.status, headers, re.sub(rb"(?<=[ /])%d\b" % job, b"ID", reply.body)


async def answers(line: Line, row: Route, job: int) -> Sequence[Any]:
    """Return what each token is answered about a job by a route, under all verbs."""
    verbs = dict.fromkeys([row.verb, "GET", "HEAD", "OPTIONS", "POST", "PATCH", "DELETE"])
    return [
        (who, verb, number, seen(await line.ask(sent), job))
        for who in BLIND
        for verb in verbs
        for number, sent in enumerate(asked(row, verb, job, bearer(secret_of(who))))
        if verb == row.verb or (number == 0 and who == "run")
    ]


async def state(site: Site) -> list[Any]:
    """Return all jobs as they are."""
    return [await site.store.jobs(range(1, 100))]


@pytest.mark.heavy
async def test_a_job_of_others_is_as_one_that_never_was(site: Site) -> None:
    """On each route, under each verb, a token without `read` gets the bytes that it gets for an id never given."""
    async with connected(site) as line:
        made = await victims(site, line)
        before = await state(site)
        for row in PER_JOB:
            expected = await answers(line, row, MISSING)
            reached = {status for who, verb, _, (status, *_) in expected if (who, verb) == ("run", row.verb)}
            assert reached == ({404} if row.access is Access.RUN else {403})
            for what, job in made.items():
                assert await answers(line, row, job) == expected, (row.verb, row.path, what)
        assert await state(site) == before


async def test_own_jobs_are_there(site: Site) -> None:
    """A token that may only run can cancel and delete what it submitted, and gets the usual answers."""
    async with connected(site) as line:
        for who in ("run", "both", "bound"):
            mine = bearer(secret_of(who))
            reply = await line.ask(request("POST", "/api/jobs", mine, body=b'{"command":"true"}'))
            path = reply.one("Location").replace("statuses", "jobs")
            assert (await line.ask(looking(f"{path}/cancel", mine, verb="POST"))).status == 202
            assert (await line.ask(looking(f"{path}/cancel", mine, verb="POST"))).short == "409 already-done"
            assert (await line.ask(looking(path, mine, verb="DELETE"))).status == 204
            assert (await line.ask(looking(path, mine, verb="DELETE"))).short == "404 no-such-job"


async def test_a_dependency_reveals_nothing(site: Site) -> None:
    """`after` names another's job as it names one that never was: the same error, and nothing is accepted."""
    async with connected(site) as line:
        made = await victims(site, line)
        before = await state(site)
        for who in ("run", "both", "bound"):
            found = set()
            for job in (MISSING, *made.values()):
                body = json.dumps({"command": "true", "after": [job]}).encode()
                reply = await line.ask(request("POST", "/api/jobs", bearer(secret_of(who)), body=body))
                found.add(repr(seen(reply, job)))
                assert reply.short == "422 invalid-job"
            assert len(found) == 1
        assert await state(site) == before


async def test_filters_reveal_nothing(site: Site) -> None:
    """What selects many jobs needs `read`, confirmed or not: no count, and no difference by what is selected."""
    many = [row for row in ROUTES if {"confirm", "q"} <= {*row.parameters.split()}]
    assert many
    async with connected(site) as line:
        await victims(site, line)
        before = await state(site)
        for row in many:
            for who in ("run", "both", "bound"):
                for query in ("", "?q=true", "?q=none", "?q=true&confirm=true", "?state=nonsense", "?unknown=1"):
                    sent = looking(f"{row.path}{query}", bearer(secret_of(who)), verb=row.verb)
                    reply = await line.ask(sent)
                    assert (reply.short, json.loads(reply.body)["scope"]) == ("403 insufficient-scope", "read")
        assert await state(site) == before


async def test_an_idempotency_key_is_its_owners(site: Site) -> None:
    """A key that another identity has used is unused: a new job of one's own, with the same body or another."""
    async with connected(site) as line:
        await victims(site, line)
        body = b'{"command":"true"}'
        key = 'Idempotency-Key: "theirs"'
        theirs = await line.ask(request("POST", "/api/jobs", bearer(secret_of("owner")), key, body=body))
        for who in ("run", "both", "bound"):
            for text in (body, b'{"command":"true","priority":1}'):
                sent = request("POST", "/api/jobs", bearer(secret_of(who)), key, body=text)
                reply = await line.ask(sent)
                if text is body:
                    assert (reply.status, json.loads(reply.body)["submitter"]) == (202, f"token:{who}")
                    assert reply.one("Location") != theirs.one("Location")
                else:
                    assert reply.short == "422 key-reused"  # its own


async def test_a_callback_needs_read(site: Site) -> None:
    """Without `read` no result comes by a callback, and the response does not name the hosts that are allowed."""
    async with connected(site) as line:
        before = await state(site)
        for who in ("run", "both", "bound"):
            for host in ("a.example", "b.example"):
                body = json.dumps({"command": "true", "notify": {"url": f"https://{host}/"}}).encode()
                reply = await line.ask(request("POST", "/api/jobs", bearer(secret_of(who)), body=body))
                assert reply.short == "403 insufficient-scope"
                assert b"a.example" not in reply.body
        assert await state(site) == before
