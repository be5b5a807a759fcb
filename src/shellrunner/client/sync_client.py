"""The API as typed methods that block: every method of `Client`, for programs without an event loop.

A `SyncClient` is owned by its creator. The methods are those of `Client`, made synchronous one by one, so that type
checkers know their parameters and results. Must not know which resources there are.
"""

from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterable
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, Self, TypeVar

from shellrunner.client.blocking_transport import BlockingTransport, run
from shellrunner.client.client import DEFAULT_URL, Client
from shellrunner.client.requester import RetryListener
from shellrunner.client.stdin import StdinWriter

if TYPE_CHECKING:
    import ssl

P = ParamSpec("P")
T = TypeVar("T")

_END: Final = object()


def _blocking(
    method: Callable[Concatenate[Client, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate["SyncClient", P], T]:
    @wraps(method)
    def call(self: "SyncClient", /, *args: P.args, **options: P.kwargs) -> T:
        return run(method(self._client, *args, **options))

    return call


def _iterating(
    method: Callable[Concatenate[Client, P], AsyncIterator[T]],
) -> Callable[Concatenate["SyncClient", P], Generator[T, None, None]]:
    @wraps(method)
    def call(self: "SyncClient", /, *args: P.args, **options: P.kwargs) -> Generator[T, None, None]:
        return _iterate(method(self._client, *args, **options))

    return call


class SyncClient:
    """A connection to one server, whose methods block: those of `Client`, with the same parameters and results.

    What is an asynchronous iterator there is an iterator here. Leave a `for` loop over one whenever you want; the
    connection is closed with the iterator. Other requests may be made meanwhile, and threads may share a client:
    requests at the same time use connections of their own. Neither aiohttp nor asyncio is imported.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        token: str | None = None,
        retry_for: float = 60.0,
        retry_first_for: float = 0.0,
        on_retry: RetryListener | None = None,
        tls: "ssl.SSLContext | None" = None,
        server_user: str | int | None = None,
    ) -> None:
        """See `Client`.

        Raises:
            ValueError: `url` is not the address of a server, or there is no such user.
        """
        self._client = Client(
            url,
            token=token,
            retry_for=retry_for,
            retry_first_for=retry_first_for,
            on_retry=on_retry,
            tls=tls,
            server_user=server_user,
            make_transport=BlockingTransport,
        )

    def __enter__(self) -> Self:
        """Open the client; connections are made on demand."""
        run(self._client.__aenter__())
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close all connections."""
        run(self._client.__aexit__(*exc_info))

    index = _blocking(Client.index)

    # Jobs

    submit = _blocking(Client.submit)
    submit_many = _blocking(Client.submit_many)
    run = _blocking(Client.run)
    again = _blocking(Client.again)
    edit = _blocking(Client.edit)
    job = _blocking(Client.job)
    jobs = _iterating(Client.jobs)
    jobs_page = _blocking(Client.jobs_page)
    cancel = _blocking(Client.cancel)
    cancel_many = _blocking(Client.cancel_many)
    pause_job = _blocking(Client.pause_job)
    resume_job = _blocking(Client.resume_job)
    signal = _blocking(Client.signal)
    write_stdin = _blocking(Client.write_stdin)
    resize = _blocking(Client.resize)
    delete = _blocking(Client.delete)
    delete_many = _blocking(Client.delete_many)

    def pipe_stdin(self, job_id: int, source: Iterable[bytes]) -> bool:
        """Send a command all of `source`, each byte once, and then the end of its input; wait until it runs.

        Return False if the job is done before that. It must have been submitted with `stdin={"stream": True}`.
        """
        return run(self._client.pipe_stdin(job_id, _as_async(source)))

    def open_stdin(self, job_id: int, *, writer: str | None = None) -> "SyncStdinWriter":
        """Return an object that writes to a job's input piece by piece, each byte once, as it is typed.

        `writer` is the name under which the same client follows the job, where several may type.
        """
        return SyncStdinWriter(self._client.open_stdin(job_id, writer=writer))

    # Statuses

    status = _blocking(Client.status)
    statuses = _iterating(Client.statuses)
    wait = _blocking(Client.wait)
    follow = _iterating(Client.follow)
    changes = _iterating(Client.changes)
    output = _iterating(Client.output)
    output_size = _blocking(Client.output_size)
    output_line = _blocking(Client.output_line)
    find_output = _iterating(Client.find_output)
    usage = _blocking(Client.usage)
    usages = _blocking(Client.usages)

    # Results

    result = _blocking(Client.result)
    results = _iterating(Client.results)
    stdout = _iterating(Client.stdout)
    stderr = _iterating(Client.stderr)
    delete_result = _blocking(Client.delete_result)

    # Queues

    queues = _blocking(Client.queues)
    queue = _blocking(Client.queue)
    set_queue = _blocking(Client.set_queue)
    delete_queue = _blocking(Client.delete_queue)
    pause = _blocking(Client.pause)
    resume = _blocking(Client.resume)
    pause_all = _blocking(Client.pause_all)
    resume_all = _blocking(Client.resume_all)

    # Workers

    workers = _blocking(Client.workers)
    worker = _blocking(Client.worker)
    drain_worker = _blocking(Client.drain_worker)
    resume_worker = _blocking(Client.resume_worker)
    remove_worker = _blocking(Client.remove_worker)

    # Keepers

    keepers = _blocking(Client.keepers)
    end_keeper = _blocking(Client.end_keeper)


class SyncStdinWriter:
    """Writes to the input of one job, each byte once."""

    def __init__(self, writer: StdinWriter) -> None:
        self._writer = writer

    def claim(self, *, take: bool = False) -> None:
        """Become the job's writer, who goes on where the input is; with `take`, although there is another one.

        Raises:
            ClientError: `input-taken`: there is another one; `not-running`; `input-closed`: it takes no input.
        """
        run(self._writer.claim(take=take))

    def write(self, data: bytes, *, end: bool = False) -> bool:
        """Send `data`; return False if the job is done, so that nothing reads it any more.

        Raises:
            ClientError: the job takes no input, or not from this one: see `claim`.
        """
        return run(self._writer.write(data, end=end))


def _iterate(source: AsyncIterator[T]) -> Generator[T, None, None]:
    try:
        while (item := run(_next(source))) is not _END:
            yield item
    finally:
        if (close := getattr(source, "aclose", None)) is not None:
            run(close())


async def _next(source: AsyncIterator[T]) -> Any:
    return await anext(source, _END)


async def _as_async(source: Iterable[bytes]) -> AsyncIterator[bytes]:
    for data in source:
        yield data
