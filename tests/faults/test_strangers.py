"""A4 in full: more connections of another user than the service has, opened again as fast as they are closed."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attacks.test_strangers import STRANGER, submit
from tests.support.attack import FULL_TOKEN, Target, bearer, looking, serving
from tests.support.directories import open_directory
from tests.support.hoarder import hoarding
from tests.support.waiting import until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can have processes of other users")


@pytest.fixture
def open_place() -> Iterator[Path]:
    """Yield a directory that every user may enter, unlike those of pytest."""
    with open_directory() as made:
        yield made


async def submitted(target: Target, where: tuple[str, int] | str, *headers: str) -> int:
    """Submit as often as it takes: the kernel's own queue of connections may be full."""

    async def attempt() -> int:
        try:
            return await submit(target, where, *headers)
        except (OSError, TimeoutError):
            return 0

    status: int = await until(attempt, 60)
    return status


@pytest.mark.usefixtures("only_whole")
@pytest.mark.parametrize("tokens", [False, True], ids=["without tokens", "with tokens"])
@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\n", looking()], ids=["nothing", "half a head", "a request"])
async def test_a4_with_the_defaults_thousands_lock_nobody_out(
    tmp_path: Path, open_place: Path, *, tokens: bool, sent: bytes
) -> None:
    """A4: 1,200 connections over TCP and as many over the Unix socket, and the owner's submissions are accepted."""
    settings = {"SERVER__LISTEN": f'["localhost:0", "unix:{open_place}/front"]', "SERVER__SOCKET_MODE": "0666"}
    async with serving(tmp_path, tokens=tokens, **settings) as target:
        tcp, unix, token = ("127.0.0.1", target.port), f"{open_place}/front", [bearer(FULL_TOKEN)] if tokens else []
        sent = target.filled(sent)
        async with hoarding(STRANGER, tcp, 1200, sent, 0.5), hoarding(STRANGER, unix, 1200, sent, 0.5):
            for _ in range(10):
                assert await submitted(target, tcp, *token) == 202
                assert await submitted(target, unix) == 202
