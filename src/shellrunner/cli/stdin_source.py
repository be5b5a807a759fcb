"""Standard input that a person gives to a job: within the request if it is text and small, else while it runs.

Read from a file or from our own standard input. Must not know requests.
"""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, NamedTuple

import click

from shellrunner.cli.fd_io import STDIN, pieces
from shellrunner.client import Client
from shellrunner.errors import ShellrunnerError

_SMALL: Final = 1 << 19  # bytes as JSON, well within the 1 MiB of a request


class InputFailed(ShellrunnerError):
    """What is to be given to a job cannot be read."""


class StdinSource(NamedTuple):
    """What was read already, and perhaps where more comes from."""

    text: str | None = None
    beginning: bytes = b""
    rest: int | None = None

    @property
    def spec(self) -> str | Mapping[str, bool] | None:
        """What the request says of it."""
        return {"stream": True} if self.is_streamed else self.text

    @property
    def is_streamed(self) -> bool:
        """Whether it is given while the job runs."""
        return self.rest is not None

    async def pieces(self, free: asyncio.Lock) -> AsyncIterator[bytes]:
        """All of what is streamed; see `descriptors.pieces`."""
        if self.beginning:
            yield self.beginning
        if self.rest is not None:
            async for piece in pieces(self.rest, free):
                yield piece


async def feed(client: Client, job_id: int, source: StdinSource, free: asyncio.Lock) -> None:
    """Give a job all of what is streamed, but for what is read while somebody else has `free`.

    Raises:
        ClientError: the service does not take it.
        InputFailed: it cannot be read.
    """
    try:
        await client.pipe_stdin(job_id, source.pieces(free))
    except OSError as error:
        raise InputFailed(f"standard input cannot be read: {error.strerror}") from None


@contextmanager
def opened(name: str | None, *, at_once: bool) -> Iterator[StdinSource]:
    """Open what `--stdin` names. With `at_once`, `-` is streamed from the first byte on, as it is typed.

    Raises:
        click.UsageError: it cannot be read.
    """
    if name is None:
        yield StdinSource()
    elif name == "-":
        yield StdinSource(rest=STDIN) if at_once else _read(STDIN)
    else:
        try:
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise click.UsageError(f"--stdin {name}: {error.strerror}") from None
        try:
            yield _read(fd)
        except IsADirectoryError:
            raise click.UsageError(f"--stdin {name}: is a directory") from None
        finally:
            os.close(fd)


def _read(fd: int) -> StdinSource:
    beginning = b""
    while len(beginning) <= _SMALL:
        data = os.read(fd, _SMALL)
        if not data:
            break
        beginning += data
    else:
        return StdinSource(beginning=beginning, rest=fd)
    with contextlib.suppress(UnicodeDecodeError):
        text = beginning.decode()
        if len(json.dumps(text, ensure_ascii=False).encode()) <= _SMALL:
            return StdinSource(text=text)
    return StdinSource(beginning=beginning, rest=fd)
