"""Connections on which nobody was authenticated: how many there may be, how long they stay, and who is one."""

import asyncio
import ipaddress
import os
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from shellrunner.peer_credentials import ConnectionPeer
from shellrunner.web.http.connections import CONNECTIONS, ConnectionLimits, Connections
from shellrunner.web.http.sources import Source, find_source
from shellrunner.web.http.strangers import Strangers
from tests.support.site import Site, serving
from tests.support.tokens import hash_of, secret_of
from tests.support.waiting import until

AUTH = {
    "tokens": [{"name": name, "hash": hash_of(name), "scopes": ["read", "run"]} for name in ("ci", "other")],
    "tokens_file": None,
}
# The test's own user is a stranger here, as another would be.
LIMITS = ConnectionLimits(
    max_connections=40,
    max_unauthenticated=10,
    max_unauthenticated_per_source=4,
    per_source_grace=0.0,
    stranger_idle_timeout=0.2,
    own_uid=os.geteuid() + 1,
)
TOKEN = f"Authorization: Bearer {secret_of('ci')}\r\n"


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """Yield a site with a token, which takes the test for another user's."""
    async with serving(tmp_path, auth=AUTH) as running:
        running.app[CONNECTIONS].limits = LIMITS
        yield running


class Client:
    """A connection of a client."""

    def __init__(self, host: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._host, self.reader, self.writer = host, reader, writer

    async def ask(self, path: str = "/api/jobs", headers: str = "") -> int:
        """Send a request on it and read the response; return the status."""
        self.writer.write(f"GET {path} HTTP/1.1\r\nHost: {self._host}\r\n{headers}\r\n".encode())
        head = (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 10)).decode()
        (length,) = [line.split(":")[1] for line in head.splitlines() if line.lower().startswith("content-length")]
        await self.reader.readexactly(int(length))
        return int(head.split()[1])

    async def is_closed(self) -> bool:
        """Wait for the end of the connection."""
        try:
            return await asyncio.wait_for(self.reader.read(), 10) == b""
        except ConnectionError:
            return True


async def client(site: Site, stack: AsyncExitStack, path: str | None = None) -> Client:
    """Connect over TCP, or the Unix socket at this path, until the end of the block."""
    connections: Connections = site.app[CONNECTIONS]
    known = {id(each) for each in connections}
    if path is None:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    else:
        reader, writer = await asyncio.open_unix_connection(path)
    stack.callback(writer.close)
    await until(lambda: any(id(each) not in known for each in connections))
    return Client("localhost" if path else f"localhost:{site.port}", reader, writer)


def drops(site: Site) -> dict[str, int]:
    return {reason: number for reason, number in site.app[CONNECTIONS].cut.items() if number}


async def test_a_user_has_a_few_and_the_newest_stay(site: Site, tmp_path: Path) -> None:
    """With one more than its share, a user's oldest connection is closed, over TCP and over a Unix socket.

    Each has a line in the audit log.
    """
    path = str(tmp_path / "s")
    await web.UnixSite(site.runner, path).start()
    async with AsyncExitStack() as stack:
        for address in (path, None):
            clients = [await client(site, stack, address) for _ in range(6)]
            for each in clients[:2]:
                assert await each.is_closed()
            assert [await each.ask("/healthz") for each in clients[2:]] == [200] * 4
        assert site.app[CONNECTIONS].unauthenticated == 4  # the same user's
    closed = [line for event, line in site.audit.lines if line["why"] == "unauthenticated"]
    local = [line for line in closed if line["from"] == "unix"]
    assert all((line["uid"], line["pid"]) == (os.geteuid(), os.getpid()) for line in local)
    assert {line["from"].rpartition(":")[0] for line in closed if line not in local} == {"127.0.0.1"}
    assert len(local) >= 2


async def test_many_at_once_are_served_if_each_is_used(site: Site) -> None:
    """For a moment a source may have more, so that a client that opens many at once, with a token, loses none."""
    site.app[CONNECTIONS].limits = replace(LIMITS, per_source_grace=60.0)
    async with AsyncExitStack() as stack:
        clients = [await client(site, stack) for _ in range(10)]
        assert [await each.ask(headers=TOKEN) for each in clients] == [200] * 10
        assert (len(site.app[CONNECTIONS]), site.app[CONNECTIONS].unauthenticated) == (10, 0)
        more = [await client(site, stack) for _ in range(11)]
        assert await more[0].is_closed()  # the share of all strangers has no grace
        assert [await each.ask(headers=TOKEN) for each in clients + more[1:]] == [200] * 20
    assert drops(site) == {"unauthenticated": 1}


async def test_the_grace_ends_without_another_connection(site: Site) -> None:
    """Those of a source that are too many are closed when they are old enough, even if nothing else happens."""
    site.app[CONNECTIONS].limits = replace(LIMITS, per_source_grace=0.5)
    async with AsyncExitStack() as stack:
        await asyncio.gather(*(client(site, stack) for _ in range(7)))
        assert site.app[CONNECTIONS].unauthenticated == 7
        await until(lambda: site.app[CONNECTIONS].unauthenticated == 4)


async def test_what_waits_between_requests_is_closed_soon(site: Site) -> None:
    """A stranger's keep-alive is short, after a public path, 401 and 403; one that was let in has a long one."""
    async with AsyncExitStack() as stack:
        guest = await client(site, stack)
        assert await guest.ask(headers=TOKEN) == 200
        for path, headers, status in (
            ("/healthz", "", 200),
            ("/api/jobs", "", 401),
            ("/api/jobs", "Origin: http://evil.example\r\n", 403),
        ):
            stranger = await client(site, stack)
            assert await stranger.ask(path, headers) == status
            assert await stranger.ask(path, headers) == status  # it may try again for a moment
            assert await stranger.is_closed()
        assert await guest.ask("/healthz") == 200
        assert await guest.ask(headers=TOKEN) == 200
    assert drops(site) == {}


async def test_who_fails_later_is_a_stranger_again(site: Site) -> None:
    """The last request with credentials decides: after a wrong token the connection is soon closed."""
    async with AsyncExitStack() as stack:
        once = await client(site, stack)
        assert await once.ask(headers=TOKEN) == 200
        assert site.app[CONNECTIONS].unauthenticated == 0
        assert await once.ask(headers="Authorization: Bearer wrong\r\n") == 401
        assert site.app[CONNECTIONS].unauthenticated == 1
        assert await once.ask(headers=TOKEN) == 200
        assert site.app[CONNECTIONS].unauthenticated == 0
        assert await once.ask("/api/nothing", headers=TOKEN) == 404
        assert await once.ask(headers="Authorization: Bearer wrong\r\n") == 401
        assert await once.is_closed()
    assert site.app[CONNECTIONS].unauthenticated == 0


async def test_a_named_proxy_keeps_its_connections(site: Site) -> None:
    """A proxy has many clients on few connections: no share of one source, and no short keep-alive, applies to it."""
    proxies = (ipaddress.ip_network("127.0.0.0/8"),)
    site.app[CONNECTIONS].limits = replace(LIMITS, proxies=proxies)
    async with AsyncExitStack() as stack:
        clients = [await client(site, stack) for _ in range(9)]
        assert [await each.ask() for each in clients] == [401] * 9
        idle_until = asyncio.get_running_loop().time() + 3 * LIMITS.stranger_idle_timeout
        await until(lambda: asyncio.get_running_loop().time() > idle_until)
        assert [await each.ask("/healthz") for each in clients] == [200] * 9


async def test_the_services_own_user_is_no_stranger(tmp_path: Path) -> None:
    """Processes of the service's user wait as long as others that were let in, before they have shown a token."""
    async with serving(tmp_path, auth=AUTH) as site, AsyncExitStack() as stack:
        site.app[CONNECTIONS].limits = replace(LIMITS, own_uid=os.geteuid())
        clients = [await client(site, stack) for _ in range(15)]
        assert [await each.ask("/healthz") for each in clients] == [200] * 15
        idle_until = asyncio.get_running_loop().time() + 3 * LIMITS.stranger_idle_timeout
        await until(lambda: asyncio.get_running_loop().time() > idle_until)
        assert [await each.ask(headers=TOKEN) for each in clients] == [200] * 15
        assert site.app[CONNECTIONS].unauthenticated == 0


async def test_where_many_were_let_in_who_has_most_makes_way(site: Site) -> None:
    """With all connections in use, what waits longest of the client with most of them is closed for a new one."""
    site.app[CONNECTIONS].limits = replace(LIMITS, max_connections=4)
    async with AsyncExitStack() as stack:
        clients = [await client(site, stack) for _ in range(4)]
        for each in (clients[1], clients[0], *clients[2:]):
            assert await each.ask(headers=TOKEN) == 200
        late = await client(site, stack)
        assert await clients[1].is_closed()
        assert [await each.ask(headers=TOKEN) for each in (late, clients[0], *clients[2:])] == [200] * 4
    assert drops(site) == {"idle": 1}


async def test_a_token_cannot_take_all_connections(site: Site) -> None:
    """With as many in use as strangers leave, a token gets no more, and another does; what waits makes way."""
    site.app[CONNECTIONS].limits = replace(LIMITS, max_connections=12, max_unauthenticated=4)
    other = f"Authorization: Bearer {secret_of('other')}\r\n"
    async with AsyncExitStack() as stack:
        idle = await client(site, stack)
        assert await idle.ask(headers=TOKEN) == 200
        authorization = {"Authorization": f"Bearer {secret_of('ci')}"}
        answer = await site.ask("POST", "/api/jobs", headers=authorization, json={"command": "true"})
        path = f"/api/statuses/{answer.json['job_id']}"
        wait = f"GET {path} HTTP/1.1\r\nHost: localhost:{site.port}\r\nPrefer: wait=50\r\n{TOKEN}\r\n"
        for _ in range(8):
            busy = await client(site, stack)
            busy.writer.write(wait.encode())
        assert await idle.is_closed()
        await until(lambda: not site.app[CONNECTIONS].unauthenticated)
        assert len(site.app[CONNECTIONS]) == 8
        for _ in range(3):
            refused = await client(site, stack)
            assert await refused.ask(headers=TOKEN) == 429
            assert await refused.is_closed()
        assert [await (await client(site, stack)).ask(headers=other) for _ in range(3)] == [200] * 3
    assert drops(site) == {"idle": 1}
    assert site.app[CONNECTIONS].problems["too-many-connections"] == 3


async def test_a_refused_body_that_never_arrives_holds_no_connection(site: Site) -> None:
    """A token that gets no more connections cannot keep those of its refused requests in use by slow bodies."""
    site.app[CONNECTIONS].limits = replace(LIMITS, max_connections=12, max_unauthenticated=4)
    other = f"Authorization: Bearer {secret_of('other')}\r\n"
    slow = f"POST /api/jobs HTTP/1.1\r\nHost: localhost:{site.port}\r\n{TOKEN}Content-Length: 1000\r\n\r\n{{"
    async with AsyncExitStack() as stack:
        for _ in range(16):
            (await client(site, stack)).writer.write(slow.encode())
        await until(lambda: site.app[CONNECTIONS].problems["too-many-connections"] >= 4)
        begun = asyncio.get_running_loop().time()
        assert [await (await client(site, stack)).ask(headers=other) for _ in range(4)] == [200] * 4
        assert asyncio.get_running_loop().time() - begun < 1  # not once the bodies were waited for
    assert set(drops(site)) == {"idle"}


class Waiting:
    """A stranger of which only the source and the age matter."""

    def __init__(self, source: Source, age: float = 60, owner: Source | None = None) -> None:
        self.source, self.age, self._owner = source, age, owner

    def identify(self) -> None:
        """Be found out."""
        assert self._owner is not None
        self.source = self._owner


def test_who_has_most_makes_way() -> None:
    """Of all sources the largest gives its oldest, so that one connection among many of an attacker's is safe."""
    strangers, attacker, owner = Strangers(), [Waiting(Source("a")) for _ in range(9)], Waiting(Source("b"))
    for each in (owner, *attacker):
        strangers.add(each)
    for each in attacker[:8]:
        assert strangers.first_to_go() is each
        strangers.remove(each)
    assert strangers.first_to_go(2) is None


def test_who_is_behind_loopback_is_found_out_before_any_makes_way() -> None:
    """Users of this machine are distinguished where there are many, and the service's own makes way for nobody."""
    loopback, other, own = Source("loopback", is_provisional=True), Source("uid:7"), Source("uid:1", is_own=True)
    strangers = Strangers()
    for owner in (own, other, other, own, other):
        strangers.add(Waiting(loopback, owner=owner))
    going = strangers.first_to_go(3)
    assert going is None
    assert len(strangers) == 3
    assert [each.source for each in strangers.over_share("uid:7", 3, 0)] == []
    found = strangers.first_to_go()
    assert found is not None
    assert found.source == other


def test_the_young_and_proxies_have_no_share() -> None:
    """A share of one source leaves alone what is younger than the grace, and proxies."""
    for source, age, number in ((Source("a"), 2.0, 3), (Source("a"), 0.5, 0), (Source("p", is_proxy=True), 9.0, 0)):
        strangers = Strangers()
        for _ in range(5):
            strangers.add(Waiting(source, age))
        going = []
        for each in strangers.all_over_share(2, 1.0):
            strangers.remove(each)
            going.append(each)
        assert len(going) == number


class Transport(asyncio.BaseTransport):
    """A transport of which only the peer's address matters."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._extra.get(name, default)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2::ffff", "2001:db8:1:2::"),
        ("fe80::1%eth0", "fe80::"),
        ("127.5.5.5", "loopback"),
        ("::1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
    ],
)
def test_what_counts_as_one_source(address: str, key: str) -> None:
    """An address in its canonical form is a source, of IPv6 its /64, and all of loopback at first."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as connection:
        transport = Transport({"socket": connection, "peername": (address, 1, 0, 0)})
        process, proxies = ConnectionPeer(connection), (ipaddress.ip_network("192.0.2.0/24"),)
        source = find_source(transport, process, proxies, 1)
    assert (source.key, source.is_proxy) == (key, key == "192.0.2.7")
