"""The compose file of the guide for several hosts: every command in it does what the file relies on.

Without containers: each service that is shellrunner's is a process with the arguments, the environment and the order
of the file, and with what the Containerfile sets. Only what containers give is replaced: host names by the loopback
address, ports, and paths in volumes.
"""

import asyncio
import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from tests.docs.test_proxies import free_port, listens
from tests.support import tour
from tests.support.postgres import PostgresServer, skip_or_fail
from tests.support.waiting import until

yaml: Any = pytest.importorskip("yaml", reason="reads the compose file")  # comes with what builds the documentation

ROOT: Final = Path(__file__).parent.parent.parent
FILE: Final = yaml.safe_load((ROOT / "docs/how-to/compose.yaml").read_text())
CONTAINERFILE: Final = (ROOT / "Containerfile").read_text()
GUIDE: Final = (ROOT / "docs/how-to/several-hosts.md").read_text()
IMAGE: Final = "shellrunner-cluster"
OURS: Final = [name for name, service in FILE["services"].items() if service["image"] == IMAGE]
PUBLISHED: Final = "localhost:8080"  # as clients see the cluster


def depends_on(name: str) -> dict[str, str]:
    """Return for which services this one waits, each with the condition."""
    given = FILE["services"][name].get("depends_on", {})
    if isinstance(given, list):
        return dict.fromkeys(given, "service_started")
    return {other: each["condition"] for other, each in given.items()}


def start_order() -> list[str]:
    """Return the names of all services, those that others wait for first."""
    return [*TopologicalSorter({name: depends_on(name) for name in FILE["services"]}).static_order()]


def image_environment() -> dict[str, str]:
    """Return what the Containerfile sets."""
    (text,) = re.findall(r"(?ms)^ENV (.*?[^\\])$", CONTAINERFILE)
    return dict(word.split("=", 1) for word in shlex.split(text.replace("\\\n", "")))


@dataclass
class Compose:
    """The services as processes. `ports`: of those that listen, on the address of each."""

    path: Path
    database: PostgresServer
    token: str
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers of a client."""
        return {"Authorization": f"Bearer {self.token}", "Host": PUBLISHED}

    def environment(self, name: str) -> dict[str, str]:
        """Return the environment of a service, in which what is the container's is replaced."""
        given = image_environment() | {
            key: str(value) for key, value in FILE["services"][name]["environment"].items()
        }
        assert given["SHELLRUNNER_AUTH__TOKENS_FILE"] == mount_point(name, "./tokens.toml")
        assert "@database/" in given["SHELLRUNNER_STORE__URL"]
        port = self.ports.setdefault(name, free_port())
        return given | {
            "PATH": os.environ["PATH"],
            "HOME": str(self.path),
            "SHELLRUNNER_SERVER__HOST": "127.0.0.1",
            "SHELLRUNNER_SERVER__PORT": str(port),
            "SHELLRUNNER_STORE__STATE_DIR": str(self.path / name),
            "SHELLRUNNER_AUTH__TOKENS_FILE": str(self.path / "tokens.toml"),
            "SHELLRUNNER_STORE__URL": given["SHELLRUNNER_STORE__URL"].replace(
                "@database/", f"@127.0.0.1:{self.database.port}/"
            ),
        }

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """Start a service with the arguments of the file."""
        command = [sys.executable, "-m", "shellrunner", *FILE["services"][name]["command"]]
        with (self.path / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(command, env=self.environment(name), stdout=log, stderr=log)
        self.processes[name] = process
        return process

    def log(self, name: str) -> str:
        """Return what a service has logged."""
        return (self.path / f"{name}.log").read_text()

    async def ready(self, name: str) -> None:
        """Wait until a service works."""
        process = self.processes[name]
        await until(
            lambda: re.search('"event":"(listening|running jobs)"', self.log(name)) or process.poll() is not None,
            what=f"{name} works",
        )
        assert process.poll() is None, self.log(name)

    def end(self) -> None:
        """End all services, as `compose down` does."""
        for process in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        for process in self.processes.values():
            process.wait(20)


def mount_point(name: str, source: str) -> str:
    """Return where a file beside the compose file is in the container."""
    volumes = (volume.split(":") for volume in FILE["services"][name]["volumes"])
    return next(str(target) for given, target, *_ in volumes if given == source)


@pytest.fixture
def database() -> Iterator[PostgresServer]:
    """Yield a PostgreSQL with the user and the database of the file."""
    given = FILE["services"]["database"]["environment"]
    server = PostgresServer(listen="127.0.0.1")
    server.start()
    try:
        role, password, name = (given[f"POSTGRES_{key}"] for key in ("USER", "PASSWORD", "DB"))
        server.execute(f"CREATE ROLE {role} SUPERUSER LOGIN PASSWORD '{password}'")  # as the image makes it
        server.execute(f"CREATE DATABASE {name} OWNER {role}")
        yield server
    finally:
        server.end()


@pytest.fixture
async def compose(database: PostgresServer, tmp_path: Path) -> AsyncIterator[Compose]:
    """Yield the services, started in the order of the file."""
    tokens = tmp_path / "tokens.toml"
    create = [sys.executable, "-m", "shellrunner", "token", "create", "compose"]
    printed = subprocess.run(create, capture_output=True, text=True, check=True, timeout=30)
    tokens.write_text(printed.stderr)
    tokens.chmod(0o600)
    made = Compose(tmp_path, database, printed.stdout.strip())
    try:
        for name in start_order():
            if name not in OURS:
                continue
            process = made.start(name)
            if name == "migrate":
                assert await asyncio.to_thread(process.wait, 30) == 0, made.log(name)
        for name in OURS:
            if name != "migrate":
                await made.ready(name)
        yield made
    finally:
        made.end()


def test_services_wait_for_what_they_need() -> None:
    """The tables are made once the database responds, before any node is started; the proxy comes last."""
    assert depends_on("migrate") == {"database": "service_healthy"}
    for name in OURS:
        if name != "migrate":
            assert depends_on(name) == {"migrate": "service_completed_successfully"}
    assert "pg_isready" in FILE["services"]["database"]["healthcheck"]["test"]
    assert start_order()[-1] == "nginx"
    assert set(depends_on("nginx")) == {name for name in OURS if "serve" in FILE["services"][name]["command"]}


async def test_the_services_are_one_cluster(compose: Compose) -> None:
    """Each has the name of its service; a job that is submitted to either API node runs on a worker."""
    async with aiohttp.ClientSession(headers=compose.headers) as session:
        for name in depends_on("nginx"):
            api = f"http://127.0.0.1:{compose.ports[name]}"
            async with session.post(f"{api}/api/jobs", json={"command": "echo fine"}) as response:
                assert response.status == 202, await response.text()
                job = (await response.json())["job_id"]
            result = await result_of(session, api, job)
            assert (result["stdout"], result["host"]) == ("fine\n", result["host"])
            assert result["host"].startswith("worker-")
            async with session.get(f"{api}/api/workers") as response:
                workers = (await response.json())["workers"]
            assert [each["host"] for each in workers] == sorted(set(OURS) - {"migrate"})
            assert {each["host"] for each in workers if each["slots"]} == {"worker-1", "worker-2"}


async def result_of(session: aiohttp.ClientSession, base: str, job: int) -> Any:
    """Wait for a job's end; return its result."""

    async def found() -> Any:
        async with session.get(f"{base}/api/results/{job}") as response:
            return await response.json() if response.status == 200 else None

    return await until(found, what="the job is done")


@pytest.mark.heavy
async def test_nginx_passes_requests_to_both_nodes(compose: Compose, tmp_path: Path) -> None:
    """With the guide's configuration, changed as the head of the compose file says, under the published name."""
    if shutil.which("nginx") is None:
        skip_or_fail("needs nginx")
    (published,) = FILE["services"]["nginx"]["ports"]
    assert published.endswith(":8080:8080")
    port = free_port()
    (block,) = [each.text for each in tour.blocks(GUIDE) if "upstream shellrunner" in each.text]
    upstreams = "".join(f"server 127.0.0.1:{compose.ports[name]}; " for name in depends_on("nginx"))
    text = re.sub(r"(?m)^    server \d.*;\n", "", block).replace(
        "upstream shellrunner {", f"upstream shellrunner {{ {upstreams}"
    )
    text = re.sub(r"listen 443 ssl;", f"listen 127.0.0.1:{port};", text).replace("Host $host", "Host $http_host")
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"{kind}_temp_path {tmp_path}/{kind};\n" for kind in kinds)
    user = "user root;" if os.geteuid() == 0 else ""
    main = f"{user} daemon off; pid {tmp_path}/nginx.pid; error_log stderr; events {{}}"
    (tmp_path / "nginx.conf").write_text(f"{main}\nhttp {{ access_log off;\n{paths}{text}\n}}")
    command = ["nginx", "-c", str(tmp_path / "nginx.conf"), "-p", str(tmp_path)]
    with (tmp_path / "proxy.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        await until(lambda: listens(port) or process.poll() is not None, what="nginx listens")
        assert process.poll() is None, (tmp_path / "proxy.log").read_text()
        seen = set()
        async with aiohttp.ClientSession(headers=compose.headers) as session:
            for _ in range(4):
                async with session.get(f"http://127.0.0.1:{port}/api/workers") as response:
                    workers = (await response.json())["workers"]
                seen |= {each["host"] for each in workers if each["responding"]}
        assert seen == set(depends_on("nginx"))
    finally:
        process.terminate()
        process.wait(10)


def test_every_setting_in_the_file_is_a_variable_of_the_program() -> None:
    """A name that no setting has would stop a node; values that are lists are JSON."""
    for name in OURS:
        for key, value in FILE["services"][name]["environment"].items():
            assert key.startswith("SHELLRUNNER_"), key
            if value.startswith("["):
                json.loads(value)
