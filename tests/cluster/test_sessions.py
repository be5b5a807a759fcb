"""Browser sessions over two API nodes of one history: a login at one counts at the other, and so does a logout."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from shellrunner.store.postgres import schema
from tests.support import postgres
from tests.support.service import Service
from tests.support.tokens import hash_of, secret_of
from tests.support.waiting import until

NAME = {"Host": "shell.example:8443"}  # which leads to either, through a proxy say
BEARER = {**NAME, "Authorization": f"Bearer {secret_of('page')}"}
KNOW_EACH_OTHER = "SELECT count(*) = 2 AND min(seen) > max(joined) FROM hosts"
FROM_PAGE = {**NAME, "Sec-Fetch-Site": "same-origin"}


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[list[Service]]:
    """Yield two API nodes on one database."""
    server = postgres.shared()
    name = server.create_database(postgres.template(schema.migrate))
    tokens = json.dumps([{"name": "page", "hash": hash_of("page"), "scopes": ["read", "run", "admin"]}])
    settings: dict[str, Any] = {
        "STORE__URL": server.url(name),
        "AUTH__TOKENS": tokens,
        "AUTH__SESSION_COOKIE": "true",
    }
    settings["SERVER__NAMES"] = json.dumps([NAME["Host"]])
    with socket.create_server(("127.0.0.2", 0)) as free:
        port = free.getsockname()[1]  # the same at both, as the cookie's name has it
    started = [Service(tmp_path / each, WORKER__NAME=each, **settings) for each in ("a", "b")]
    try:
        for address, service in zip(("127.0.0.1", "127.0.0.2"), started, strict=True):
            service.program[-2:] = ["--listen", f"{address}:{port}"]
            await service.start()
        # Each has learned of the other: it reads their rows whenever it renews its own.
        await until(lambda: server.execute(KNOW_EACH_OTHER, database=name) == [(True,)], what="they know each other")
        yield started
    finally:
        for service in started:
            await service.clear_away()
        server.drop_database(name)


async def login(node: Service) -> str:
    """Begin a session; return its cookie, as a browser sends it."""
    status, headers, _ = await node.ask("POST", "/api/session", headers=BEARER)
    assert status == 204
    return headers["Set-Cookie"].partition(";")[0]


async def watch(node: Service, cookie: str) -> Any:
    """Read the statuses with a cookie; return the status of the answer."""
    node.session.cookie_jar.clear()
    status, _, _ = await node.get("/api/statuses", headers={"Cookie": cookie, **FROM_PAGE})
    return status


async def test_a_login_at_one_node_counts_at_the_other(nodes: list[Service]) -> None:
    """Also for one that has never seen the cookie before."""
    here, there = nodes
    cookie = await login(here)
    assert [await watch(each, cookie) for each in (here, there)] == [200, 200]


async def test_a_logout_at_one_node_ends_the_session_at_the_other(nodes: list[Service]) -> None:
    """What is open there ends too, although nobody asks for anything."""
    here, there = nodes
    cookie = await login(here)
    there.session.cookie_jar.clear()
    url, headers = f"{there.url}/api/statuses/events", {"Cookie": cookie, **FROM_PAGE}
    async with there.session.get(url, headers=headers) as stream:
        assert stream.status == 200
        await stream.content.readline()
        status, _, _ = await here.ask("DELETE", "/api/session", headers=BEARER)
        assert status == 204
        with contextlib.suppress(aiohttp.ClientPayloadError):  # it is cut, as the token of a client may be stolen
            async with asyncio.timeout(10):  # far less than until the next sweep
                await stream.content.read()
    assert [await watch(each, cookie) for each in (here, there)] == [401, 401]


async def test_a_logout_ends_what_another_node_has_begun(nodes: list[Service]) -> None:
    """All sessions of the token end, also those that the node which ends them has never seen."""
    here, there = nodes
    cookie = await login(here)
    assert (await there.ask("DELETE", "/api/session", headers=BEARER))[0] == 204

    async def has_ended() -> bool:
        return bool(await watch(here, cookie) == 401)

    await until(has_ended, 10)
