"""What figures of single requests share: one request, sent many times, to the service and to the bare server."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass

from benchmarks.figure import LIMIT, Contenders, Round, Run, Sample, Unavailable
from benchmarks.http_load import Request, get, send
from benchmarks.limits.bare_serving import bare_serving
from benchmarks.process_tree import CpuTimer, ProcessTree
from benchmarks.service import Service, serving

_CONNECTIONS = 8


@dataclass(frozen=True, slots=True)
class Repeated:
    """A request that is sent `count` times."""

    request: Request
    count: int
    expected: int = 200

    def sample(self, tree: ProcessTree, port: int) -> Sample:
        """Send it to a server and return the cost of each."""
        timer = CpuTimer(tree)
        load = send(port, self.request, self.count, _CONNECTIONS, expected=self.expected)
        used, client = timer.stop()
        return {"cpu": used / self.count, "wall": load.seconds / self.count, "client": client / self.count}

    def round(self, tree: ProcessTree, port: int) -> Round:
        """Return the same as a round."""
        return lambda: self.sample(tree, port)


def against_bare_handler(
    prepare: Callable[[Service, Run], str], full: int, quick: int = 20
) -> Callable[[Run], AbstractContextManager[Contenders]]:
    """Return the contenders of a GET: services, and a bare handler that returns the same body.

    `prepare` puts the history of a new service into shape and returns the path to get.
    """

    @contextmanager
    def contenders(run: Run) -> Iterator[Contenders]:
        count = run.count(full, quick)
        with ExitStack() as stack:
            rounds: dict[str, Round | Unavailable] = {}
            for version in run.versions:
                service = stack.enter_context(serving(version, run.directory))
                request = get(prepare(service, run))
                body = send(service.port, request, quick, 1).body
                if LIMIT not in rounds:
                    bare = stack.enter_context(bare_serving(run.directory, body))
                    rounds[LIMIT] = Repeated(get("/"), count).round(*bare)
                rounds[version.name] = Repeated(request, count).round(service.tree, service.port)
            yield rounds

    return contenders
