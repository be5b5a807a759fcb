"""Browser sessions over two API nodes of one history: a login at one counts at the other, and so does a logout."""

import asyncio
import contextlib

import aiohttp
import pytest

from tests.cluster.conftest import NAME, TwoNodes
from tests.support.service import Service
from tests.support.waiting import until

AT_PROXY = {"Host": NAME}
FROM_PAGE = {**AT_PROXY, "Sec-Fetch-Site": "same-origin"}


async def login(node: Service) -> str:
    """Begin a session; return its cookie, as a browser sends it."""
    status, headers, _ = await node.ask("POST", "/api/session", headers=AT_PROXY)
    assert status == 204
    return headers["Set-Cookie"].partition(";")[0]


async def watch(node: Service, cookie: str) -> int:
    """Read the statuses with a cookie only; return the status of the answer."""
    headers = {"Cookie": cookie, **FROM_PAGE}
    async with aiohttp.ClientSession() as browser, browser.get(f"{node.url}/api/statuses", headers=headers) as answer:
        return answer.status


@pytest.mark.heavy
async def test_a_login_at_one_node_counts_at_the_other(nodes: TwoNodes) -> None:
    """Also at one that has never seen the cookie before."""
    cookie = await login(nodes.a)
    assert [await watch(each, cookie) for each in nodes.each] == [200, 200]


@pytest.mark.heavy
async def test_a_logout_at_one_node_ends_the_session_at_the_other(nodes: TwoNodes) -> None:
    """What is open there ends too, although nobody asks for anything."""
    cookie = await login(nodes.a)
    headers = {"Cookie": cookie, **FROM_PAGE}
    async with (
        aiohttp.ClientSession() as browser,
        browser.get(f"{nodes.b.url}/api/statuses/events", headers=headers) as stream,
    ):
        assert stream.status == 200
        await stream.content.readline()
        status, _, _ = await nodes.a.ask("DELETE", "/api/session", headers=AT_PROXY)
        assert status == 204
        with contextlib.suppress(aiohttp.ClientPayloadError):  # it is cut, as the token of a client may be stolen
            async with asyncio.timeout(10):  # far less than until the next sweep
                await stream.content.read()
    assert [await watch(each, cookie) for each in nodes.each] == [401, 401]


@pytest.mark.heavy
async def test_a_logout_ends_what_another_node_has_begun(nodes: TwoNodes) -> None:
    """All sessions of the token end, also those that the node which ends them has never seen."""
    cookie = await login(nodes.a)
    assert (await nodes.b.ask("DELETE", "/api/session", headers=AT_PROXY))[0] == 204

    async def has_ended() -> bool:
        return await watch(nodes.a, cookie) == 401

    await until(has_ended, 50)  # by the sweep, if the notification was lost
