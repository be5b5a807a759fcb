"""A running service of one version, on a state directory of its own, and requests to it."""

import json
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import IO, Any, Final

from benchmarks.http_load import Load, post, send
from benchmarks.process_tree import ProcessTree, running
from benchmarks.versions import Version

_POLL_INTERVAL = 0.02  # each poll costs the service CPU time


@dataclass(frozen=True, slots=True)
class Service:
    """A service that listens."""

    tree: ProcessTree
    port: int
    state_dir: Path

    def request(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        """Send one request; return the status, and the body parsed from JSON (None if it is not JSON)."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            content = None if body is None else json.dumps(body)
            sent = {"Content-Type": "application/json"} if content else {}
            connection.request(method, path, content, sent | dict(headers or {}))
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        is_json = "json" in (response.getheader("Content-Type") or "")
        return response.status, json.loads(answer) if is_json else None

    def get(self, path: str) -> Any:
        """Send a GET and return the document."""
        status, document = self.request("GET", path)
        assert status == 200, (status, document)
        return document

    def submit(self, **spec: object) -> int:
        """Submit a job and return its id."""
        status, document = self.request("POST", "/api/jobs", spec)
        assert status == 202, (status, document)
        return int(document["job_id"])

    def submit_many(self, command: str, jobs: int, connections: int = 16) -> Load:
        """Submit this many equal jobs over several connections; return once each is accepted."""
        return send(self.port, post("/api/jobs", {"command": command}), jobs, connections, expected=202)

    def wait_until_idle(self) -> None:
        """Wait until no job is queued or running."""
        while self.get("/api/jobs?state=waiting,queued,running&limit=1&fields=job_id")["jobs"]:
            time.sleep(_POLL_INTERVAL)

    def wait_until_running(self, job_id: int) -> None:
        """Wait until the job's command runs."""
        while self.request("GET", f"/api/statuses/{job_id}")[1].get("state") != "running":
            time.sleep(_POLL_INTERVAL)


@contextmanager
def serving(
    version: Version, directory: Path, state_dir: Path | None = None, **settings: object
) -> Iterator[Service]:
    """Run a service of this version; its state directory is a new one below `directory` unless one is given."""
    settings = {"SUPERVISOR__ON_STOP": "cancel", "SUPERVISOR__MAX_QUEUED": "0"} | settings
    with tempfile.TemporaryDirectory(dir=directory) as own:
        path = state_dir or Path(own) / "state"
        command = version.command("serve", "--port", "0", "--state-dir", str(path))
        with running(command, version.environment(**settings), stderr=subprocess.PIPE) as tree:
            port = int(listening_url(tree).rsplit(":", 1)[1])
            # Discard the log in another process: a thread would compete for the interpreter.
            with discarding(tree.stderr):
                yield Service(tree, port, path)


MANY_STREAMS: Final = {"SERVER__MAX_STREAMS": 5000, "SERVER__MAX_CONNECTIONS": 5000}


@contextmanager
def serving_versions(
    versions: Sequence[Version], directory: Path, **settings: object
) -> Iterator[Mapping[str, Service]]:
    """Run a service of each version; yield them by the versions' names."""
    with ExitStack() as stack:
        yield {
            version.name: stack.enter_context(serving(version, directory, None, **settings)) for version in versions
        }


@contextmanager
def discarding(pipe: IO[bytes]) -> Iterator[None]:
    """Read a pipe for as long as the context lasts."""
    process = subprocess.Popen(["cat"], stdin=pipe, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def listening_url(tree: ProcessTree) -> str:
    """Read the log until the service listens, and return its first URL."""
    for line in tree.stderr:
        if not line.startswith(b"{"):
            raise RuntimeError(f"the service did not start: {(line + tree.stderr.read()).decode()}")
        entry = json.loads(line)
        if "urls" in entry:
            return str(entry["urls"][0])
    raise RuntimeError("the service did not start")
