"""Other users of the same machine: their processes are recognized by uid, over TCP and Unix sockets."""

import os
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support import user_client
from tests.support.attack import FULL_TOKEN, Target, bearer, request, serving
from tests.support.directories import open_directory
from tests.support.waiting import until

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can have processes of other users"),
]

OTHER_UID = 54_321  # nobody has this uid, and nobody needs to: the kernel does not mind
NOBODY = 65_534  # as shipped, also the uid for those that have none
SUBMISSION = request("POST", "/api/jobs", "Connection: close")


@pytest.fixture(scope="module")
def open_place() -> Iterator[Path]:
    """Yield a directory that every user may enter, unlike those of pytest."""
    with open_directory() as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def at_home(open_place: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Target]:
    """Yield a service without tokens that every user can reach over TCP and a Unix socket."""
    listen = f'["localhost:0", "unix:{open_place}/front"]'
    directory = tmp_path_factory.mktemp("at-home")
    async with serving(directory, SERVER__LISTEN=listen, SERVER__SOCKET_MODE="0666") as target:
        yield target


def way_to(target: Target, family: int) -> tuple[str, int] | str:
    """Where the service is reached."""
    (urls,) = [line["urls"] for line in target.service.log if line["event"] == "listening"]
    tcp, tcp6, unix = urls
    if family == socket.AF_UNIX:
        return str(unix.removeprefix("unix:"))
    return (
        "127.0.0.1" if family == socket.AF_INET else "::1",
        int((tcp if family == socket.AF_INET else tcp6).rpartition(":")[2]),
    )


each_way = pytest.mark.parametrize(
    "family", [socket.AF_INET, socket.AF_INET6, socket.AF_UNIX], ids=lambda family: family.name
)


async def send(target: Target, uid: int, family: int, sent: bytes = SUBMISSION, leaves: str = "") -> str:
    """Send it from a process of this user."""
    where = way_to(target, family)
    port = str(where[1]) if isinstance(where, tuple) else "x"
    host = "localhost" if isinstance(where, str) else f"localhost:{port}"
    return await user_client.send(uid, family, where, sent.replace(b"localhost:PORT", host.encode()), leaves)


@each_way
@pytest.mark.parametrize("uid", [OTHER_UID, NOBODY])
async def test_another_user_is_rejected(at_home: Target, family: int, uid: int) -> None:
    """Every request of another user is rejected and audited, and nothing is started."""
    before, refused = await at_home.state(), len(at_home.audit())
    asked = [
        SUBMISSION,
        request("GET", "/api/jobs", "Connection: close", body=b""),
        request("POST", "/api/queues/pause", "Connection: close", body=b""),
    ]
    for sent in asked:
        answer = await send(at_home, uid, family, sent)
        assert " 403 " in answer
        assert "/problems/not-this-user" in answer
        assert "Server: shellrunner\r\n" in answer
    assert await at_home.state() == before
    await until(lambda: len(at_home.audit()) >= refused + len(asked), 5)
    lines = at_home.audit()[refused:]
    assert {line["event"] for line in lines} == {"rejected"}
    # The overflow uid stands for anybody, so it is nobody's name.
    assert {line.get("who") for line in lines} == {None if uid == NOBODY else f"uid:{uid}"}


@pytest.mark.heavy
@each_way
async def test_another_users_body_is_not_waited_for(at_home: Target, family: int) -> None:
    """Another user is rejected before its body has arrived."""
    slow = request("POST", "/api/jobs", "Connection: close", length="Content-Length: 1000000", body=b"{")
    assert " 403 " in await send(at_home, OTHER_UID, family, slow)


@each_way
async def test_the_same_user_is_served(at_home: Target, family: int) -> None:
    """The same requests from the service's own user are served, so that only the user makes the difference."""
    assert " 202 " in await send(at_home, 0, family)
    await until(at_home.canary.exists)
    at_home.canary.unlink()


@pytest.mark.heavy
@each_way
@pytest.mark.parametrize("leaves", ["close", "reset", "half"])
async def test_another_user_sends_and_disconnects(at_home: Target, family: int, leaves: str) -> None:
    """A client that closes right after sending, when its socket has no owner or root's uid, starts nothing."""
    jobs, *_ = await at_home.state()
    for _ in range(10):
        answer = await send(at_home, OTHER_UID, family, leaves=leaves)
        assert answer == "" or " 403 " in answer
    job = await at_home.start()
    at_home.canary.unlink()
    after, *_ = await at_home.state()
    assert [row["job_id"] for row in after["jobs"]] == [job, *(row["job_id"] for row in jobs["jobs"])]


HANDED_ON = request("GET", "/api/jobs", body=b"")


@each_way
async def test_a_connection_that_another_user_has_made_stays_its(at_home: Target, family: int) -> None:
    """A connection that another user hands on is rejected also when the service's own user sends over it."""
    for first in (b"", HANDED_ON):
        before = await at_home.state()
        answers = await hand_on(at_home, family, (OTHER_UID, first), (0, SUBMISSION))
        assert answers.count(" 403 ") == 2 - (first == b"")
        assert " 202 " not in answers
        assert await at_home.state() == before


@each_way
async def test_a_connection_of_the_service_user_lends_its_identity(at_home: Target, family: int) -> None:
    """Documented in the threat model: who is handed a connection of the service's user has that user's identity."""
    for first in (b"", HANDED_ON):
        answers = await hand_on(at_home, family, (0, first), (OTHER_UID, SUBMISSION))
        assert answers.count(" 200 ") == (first != b"")
        assert " 202 " in answers
        await until(at_home.canary.exists)
        at_home.canary.unlink()


async def hand_on(target: Target, family: int, maker: tuple[int, bytes], heir: tuple[int, bytes]) -> str:
    """Have one user connect and perhaps send a request, and then another send one over the same connection."""
    where = way_to(target, family)
    host = "localhost" if isinstance(where, str) else f"localhost:{where[1]}"
    first, second = (sent.replace(b"localhost:PORT", host.encode()) for _, sent in (maker, heir))
    return await user_client.hand_on(family, where, (maker[0], first), (heir[0], second))


@pytest.mark.heavy
async def test_a_socket_file_is_for_its_user(tmp_path: Path, open_place: Path) -> None:
    """By default another user cannot connect to the Unix socket."""
    async with serving(tmp_path, SERVER__LISTEN=f'["localhost:0", "unix:{open_place}/own"]'):
        assert "PermissionError" in await user_client.send(OTHER_UID, socket.AF_UNIX, f"{open_place}/own", SUBMISSION)


@pytest.mark.heavy
async def test_users_where_there_are_tokens(tmp_path: Path, open_place: Path) -> None:
    """With tokens the uid authenticates the service's own user on the Unix socket only; a token works for all."""
    front, host = f"{open_place}/tokens", b"localhost"
    settings = {"SERVER__LISTEN": f'["localhost:0", "unix:{front}"]', "SERVER__SOCKET_MODE": "0666"}
    async with serving(tmp_path, tokens=True, **settings) as target:
        by_file, by_port = SUBMISSION.replace(b"localhost:PORT", host), target.filled(SUBMISSION)
        tcp = ("127.0.0.1", target.port)
        before = await target.state()
        for uid, family, where, sent in (
            (OTHER_UID, socket.AF_UNIX, front, by_file),
            (OTHER_UID, socket.AF_INET, tcp, by_port),
            (0, socket.AF_INET, tcp, by_port),
        ):
            assert " 401 " in await user_client.send(uid, family, where, sent)
        assert await target.state() == before
        with_token = by_port.replace(b"\r\n\r\n", f"\r\n{bearer(FULL_TOKEN)}\r\n\r\n".encode(), 1)
        assert " 202 " in await user_client.send(0, socket.AF_UNIX, front, by_file)
        assert " 202 " in await user_client.send(OTHER_UID, socket.AF_INET, tcp, with_token)
