"""The standard input of a submitted job: part of the request if it is a small text, else streamed while the job runs.

Read from a file or from this process's standard input. Must not know requests.
"""

import contextlib
import json
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, Final, NamedTuple

import click

from shellrunner.cli.fd_io import STDIN, read_chunks
from shellrunner.client import Client
from shellrunner.errors import ShellrunnerError

_MAX_INLINE: Final = 1 << 19  # bytes as JSON, well within the 1 MiB of a request


class InputFailed(ShellrunnerError):
    """The input of a job cannot be read."""


class StdinSource(NamedTuple):
    """What has been read already, and the descriptor with the rest, if there is any."""

    text: str | None = None
    head: bytes = b""
    fd: int | None = None

    @property
    def request_value(self) -> str | Mapping[str, bool] | None:
        """The value of `stdin` in the request."""
        return {"stream": True} if self.is_streamed else self.text

    @property
    def is_streamed(self) -> bool:
        """Whether the input is sent while the job runs."""
        return self.fd is not None

    async def chunks(self, lock: AbstractAsyncContextManager[Any]) -> AsyncIterator[bytes]:
        """Yield all of the input that is streamed; see `fd_io.read_chunks`."""
        if self.head:
            yield self.head
        if self.fd is not None:
            async for chunk in read_chunks(self.fd, lock):
                yield chunk


async def pipe_stdin(
    client: Client, job_id: int, source: StdinSource, lock: AbstractAsyncContextManager[Any]
) -> None:
    """Send a job the streamed input; nothing is read while another task holds `lock`.

    Raises:
        ClientError: the service refuses the input.
        InputFailed: the input cannot be read.
    """
    try:
        await client.pipe_stdin(job_id, source.chunks(lock))
    except OSError as error:
        raise InputFailed(f"cannot read standard input: {error.strerror}") from None


@contextmanager
def open_stdin(name: str | None, *, stream_at_once: bool) -> Iterator[StdinSource]:
    """Open the value of `--stdin`. With `stream_at_once`, `-` is streamed from the first byte, as it is typed.

    Raises:
        click.UsageError: the file cannot be read.
    """
    if name is None:
        yield StdinSource()
    elif name == "-":
        yield StdinSource(fd=STDIN) if stream_at_once else _read(STDIN)
    else:
        try:
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise click.UsageError(f"cannot open --stdin {name}: {error.strerror}") from None
        try:
            yield _read(fd)
        except IsADirectoryError:
            raise click.UsageError(f"cannot read --stdin {name}: Is a directory") from None
        finally:
            os.close(fd)


def _read(fd: int) -> StdinSource:
    head = b""
    while len(head) <= _MAX_INLINE:
        data = os.read(fd, _MAX_INLINE)
        if not data:
            break
        head += data
    else:
        return StdinSource(head=head, fd=fd)
    with contextlib.suppress(UnicodeDecodeError):
        text = head.decode()
        if len(json.dumps(text, ensure_ascii=False).encode()) <= _MAX_INLINE:
            return StdinSource(text=text)
    return StdinSource(head=head, fd=fd)
