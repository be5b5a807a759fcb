"""Programs that open a history in PostgreSQL: what they refuse, what they wait for, what they run, what they show."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest

from shellrunner.store.postgres import schema
from tests.support import postgres
from tests.support.postgres import PostgresServer
from tests.support.processes import lives
from tests.support.service import Service
from tests.support.waiting import until

_END_CONNECTIONS = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE pid <> pg_backend_pid() AND datname = %s"""
_HINDER = "CREATE FUNCTION hinder() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {}; RETURN NEW; END $$"
_HINDER_WHO_JOINS = "CREATE TRIGGER hindering BEFORE INSERT ON hosts FOR EACH ROW EXECUTE FUNCTION hinder()"
_LOCKED = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
_RAISE = "RAISE EXCEPTION 'hindered' USING ERRCODE = '{}'"
BEGAN = {"serve": "listening", "worker": "running jobs"}  # what each logs once it works
WORKER = [sys.executable, "-m", "shellrunner", "worker"]
HUNTER = "hunter2"
NOWHERE = f"postgresql://shellrunner:{HUNTER}@127.0.0.1:1/jobs"


@pytest.fixture
def empty() -> Iterator[str]:
    """Yield the URL of a database without any table."""
    name = postgres.shared().create_database()
    yield postgres.shared().url(name)
    postgres.shared().drop_database(name)


@pytest.fixture
def database(empty: str) -> str:
    """Return the URL of a database with the tables."""
    schema.migrate(empty)
    return empty


@pytest.fixture
def down_server() -> Iterator[PostgresServer]:
    """Yield a PostgreSQL that has a database with the tables, and is stopped."""
    with postgres.server() as server:
        schema.migrate(server.url())
        server.stop()
        yield server


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[Any]:
    """Yield a function that makes a node, still to be launched; all are ended afterwards."""
    made: list[Service] = []

    def make(name: str, url: str, *options: str, program: str = "serve", **settings: object) -> Service:
        node = Service(tmp_path / name)
        node.settings = {"STORE__URL": url, "WORKER__NAME": name, **settings}
        node.program = [*WORKER[:3], program, *(["--port", "0"] if program == "serve" else []), *options]
        made.append(node)
        return node

    yield make
    for node in made:
        await node.clear_away()
        for line in node.log[-40:]:
            print(line)  # pytest shows it where the test failed


def events(node: Service, event: str) -> list[dict[str, Any]]:
    """Return the lines of its log about an event."""
    return [entry for entry in node.log if entry["event"] == event]


async def logged(node: Service, event: str) -> dict[str, Any]:
    """Wait until it has logged an event; return the line."""
    found = await until(lambda: events(node, event), what=f"{event} is logged")
    return dict(found[0])


def call(*arguments: str, **environment: str) -> tuple[int, str]:
    """Return the exit code and what was written, on both streams, by the command line."""
    variables = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **environment}
    program = [sys.executable, "-m", "shellrunner", *arguments]
    done = subprocess.run(program, capture_output=True, text=True, check=False, timeout=50, env=variables)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr


# What is refused


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("arguments", "url", "reason"),
    [
        (["serve", "--no-worker"], "", "--no-worker requires store.url"),
        (["worker"], "", "a worker requires store.url"),
        (["migrate"], "", "store.url is not set: a history in SQLite is migrated when the service starts"),
        (["serve", "--new-history"], NOWHERE, "--new-history is for a history in store.state_dir"),
        (["backup", "target"], NOWHERE, "the history is in PostgreSQL (postgresql://shellrunner@127.0.0.1:1/jobs)"),
        (["restore", "source"], NOWHERE, "use pg_dump and pg_restore"),
        (["serve"], f"mysql://u:{HUNTER}@host/db", "variable SHELLRUNNER_STORE__URL: store.url: must be the URL of"),
        (["worker"], f"postgresql://u:{HUNTER}@ho st", "variable SHELLRUNNER_STORE__URL: store.url: must have"),
    ],
)
def test_a_configuration_for_the_other_back_end_is_refused(
    tmp_path: Path, arguments: list[str], url: str, reason: str
) -> None:
    """It is an error of the configuration (2), which systemd does not retry; nothing is made."""
    code, written = call(*arguments, SHELLRUNNER_STORE__URL=url, XDG_STATE_HOME=str(tmp_path / "state"))
    assert (code, reason in written, HUNTER in written) == (2, True, False), written
    assert list(tmp_path.iterdir()) == []


@pytest.mark.heavy
@pytest.mark.parametrize("missing", ["psycopg", "pgqueuer"])
@pytest.mark.parametrize("verb", ["serve", "worker", "migrate"])
def test_without_the_extra_the_error_says_how_to_install_it(tmp_path: Path, verb: str, missing: str) -> None:
    """A package that is not there is named; nothing is made, and without a URL it is not missed."""
    (tmp_path / "path").mkdir()
    text = f'raise ModuleNotFoundError("No module named {missing!r}", name={missing!r})\n'
    (tmp_path / "path" / f"{missing}.py").write_text(text)
    environment = {"PYTHONPATH": str(tmp_path / "path"), "XDG_STATE_HOME": str(tmp_path / "state")}
    if verb == "migrate" and missing == "pgqueuer":
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
    code, written = call(verb, SHELLRUNNER_STORE__URL=NOWHERE, **environment)
    assert (code, HUNTER in written) == (2, False)
    assert f"store.url requires packages that are not installed (No module named '{missing}')" in written
    assert written.rstrip().endswith("pip install 'shellrunner[cluster]'")
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("program", ["serve", "worker"])
async def test_a_database_without_tables_is_refused(nodes: Any, empty: str, program: str) -> None:
    """The node ends with 1 and says what to do, and systemd starts it again."""
    node = nodes("a", empty, program=program)
    await node.launch()
    assert await node.ended() == 1
    assert "run `shellrunner migrate`" in str(node.log)


@pytest.mark.heavy
@pytest.mark.parametrize("program", ["serve", "worker"])
async def test_a_newer_schema_is_refused(nodes: Any, database: str, program: str) -> None:
    """A node of an older version does not touch the tables of a newer one."""
    import psycopg  # noqa: PLC0415  as a test that is skipped without it

    with psycopg.connect(database) as connection:
        connection.execute("UPDATE meta SET value = '999' WHERE key = 'schema'")
    node = nodes("a", database, program=program)
    await node.launch()
    assert await node.ended() == 1
    assert "upgrade this node" in str(node.log)
    code, written = call("migrate", SHELLRUNNER_STORE__URL=database)
    assert (code, "a newer shellrunner has migrated the database (schema 999" in written) == (1, True)


@pytest.mark.heavy
async def test_two_nodes_cannot_have_one_name(nodes: Any, database: str, tmp_path: Path) -> None:
    """The second one ends with 1 and names the setting; the first goes on, and its next start takes no time."""
    first, second = nodes("a", database), nodes("b", database, program="worker", WORKER__NAME="a")
    await first.start()
    await second.launch()
    assert await second.ended(60) == 1
    assert "worker.name" in str(second.log), second.log
    assert (await first.run("echo mine"))["stdout"] == "mine\n"
    await first.restart()
    assert (await first.run("echo again"))["stdout"] == "again\n"


@pytest.mark.heavy
def test_migrate_makes_the_tables_once(empty: str) -> None:
    """A second time nothing is done; both say where, without the password."""
    first, second = (call("migrate", SHELLRUNNER_STORE__URL=empty) for _ in range(2))
    assert (first[0], second[0]) == (0, 0)
    assert re.fullmatch(r"postgresql://postgres@/test_\d+: made the tables, schema \d+\n", first[1])
    assert second[1].endswith("already, nothing to do\n")
    assert postgres.shared().password not in first[1] + second[1]


@pytest.mark.heavy
async def test_a_restored_database_is_declared(nodes: Any, database: str) -> None:
    """All queues are paused until they are resumed, ids are left out, and what ran is lost."""
    node = nodes("a", database)
    await node.start()
    job = await node.submit("sleep 1000")
    keeper = await node.running(job)
    await node.kill()
    code, written = call("migrate", "--after-restore", SHELLRUNNER_STORE__URL=database)
    assert (code, "already, nothing to do" in written, "epoch 2, 1 running job lost" in written) == (0, True, True)
    await node.start()
    assert (await node.result(job))["ending"] == "lost"
    later = await node.submit("echo later")
    assert later > job + 1_000_000
    assert (await node.status(later))["pending"]["reason"] == "service_paused"
    node.signal(keeper, signal.SIGKILL)
    assert (await node.ask("POST", "/api/queues/resume"))[0] == 200
    assert (await node.result(later))["stdout"] == "later\n"


@pytest.mark.heavy
def test_migrate_does_not_wait_for_a_database() -> None:
    """It says that it cannot be reached, without the password."""
    code, written = call("migrate", SHELLRUNNER_STORE__URL=NOWHERE)
    assert (code, "the database cannot be reached" in written, HUNTER in written) == (1, True, False)


# What is awaited


@pytest.mark.heavy
async def test_serve_waits_for_postgresql_and_says_so(nodes: Any, down_server: PostgresServer) -> None:
    """Meanwhile /readyz is 503, under the address that it has later; then it serves."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    node = nodes("a", down_server.url(), SERVER__LISTEN=f'["127.0.0.1:{port}"]')
    node.program = node.program[:4]
    await node.launch()
    waiting = await logged(node, "waiting for PostgreSQL")
    assert (waiting["level"], waiting["database"]) == ("warning", "postgresql://postgres@/postgres")
    assert "No such file or directory" in waiting["reason"]
    for path, status in (("readyz", 503), ("healthz", 200), ("api/jobs", 503)):
        async with node.session.get(f"http://127.0.0.1:{port}/{path}") as response:
            assert response.status == status
    await asyncio.to_thread(down_server.start)
    await until(lambda: node.url, what="it listens")
    assert node.url == f"http://127.0.0.1:{port}"
    assert (await node.get("/readyz"))[0] == 200
    assert (await node.run("echo served"))["stdout"] == "served\n"
    assert [entry["event"] for entry in node.log].index("PostgreSQL can be used") > 0
    assert len(events(node, "waiting for PostgreSQL")) == 1
    assert down_server.password not in str(node.log)


def listening_node(nodes: Any, name: str, url: str, program: str, **settings: object) -> tuple[Service, str]:
    """Make a node whose address is known before it is started; return it, with the address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    listen = {"serve": {"SERVER__LISTEN": f'["{address}"]'}, "worker": {"WORKER__LISTEN": address}}[program]
    node: Service = nodes(name, url, program=program, **listen, **settings)
    node.program = node.program[:4]
    return node, f"http://{address}"


async def answered(node: Service, address: str, path: str) -> tuple[int, str]:
    """Return the status and text with which a node answers once it does, though it is not started yet."""

    async def answer() -> tuple[int, str] | None:
        with contextlib.suppress(aiohttp.ClientConnectionError):
            async with node.session.get(address + path) as response:
                return response.status, await response.text()
        return None

    found: tuple[int, str] = await until(answer, what="it answers")
    return found


@pytest.mark.heavy
@pytest.mark.parametrize("program", ["serve", "worker"])
async def test_a_node_that_waits_for_its_name_is_alive_and_not_ready(nodes: Any, database: str, program: str) -> None:
    """Until the lease of a server that was killed has expired; the answer and the log say what it waits for."""
    first = nodes("a", database)
    second, address = listening_node(nodes, "b", database, program, WORKER__NAME="a")
    await first.start()
    await first.kill()
    await second.launch()
    waiting = await logged(second, "another server has had the name of this host: waiting until its lease expires")
    assert (waiting["level"], waiting["host"]) == ("warning", "a")
    assert (await answered(second, address, "/healthz"))[0] == 200
    status, text = await answered(second, address, "/readyz")
    assert (status, "until the lease of an earlier server with the name of this host" in text) == (503, True)
    assert not events(second, BEGAN[program])
    await until(lambda: events(second, BEGAN[program]), 40, what="it has begun")
    assert (await answered(second, address, "/readyz"))[0] == 200


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("program", "hindrance"),
    [
        ("serve", "PERFORM pg_terminate_backend(pg_backend_pid())"),
        ("worker", "PERFORM pg_terminate_backend(pg_backend_pid())"),
        ("worker", _RAISE.format("disk_full")),
        ("worker", _RAISE.format("lock_not_available")),
        ("worker", _RAISE.format("io_error")),
    ],
)
async def test_a_node_whose_opening_fails_again_and_again(
    nodes: Any, database: str, program: str, hindrance: str, tmp_path: Path
) -> None:
    """It answers probes, has systemd wait for it, repeats nothing in the log, ends with 0, and begins once it can."""
    server, name = postgres.shared(), database.rpartition("/")[2].partition("?")[0]
    server.execute(_HINDER.format(hindrance), database=name)
    server.execute(_HINDER_WHO_JOINS, database=name)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.setblocking(False)
        node, address = listening_node(nodes, "a", database, program)
        node.environment = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        notes: list[str] = []
        asyncio.get_running_loop().add_reader(systemd, lambda: notes.append(systemd.recv(4096).decode()))

        async def has_failed_twice() -> None:
            await until(lambda: notes.count("EXTEND_TIMEOUT_USEC=30000000\n") > 1, what="it has failed twice")

        await node.launch()
        await has_failed_twice()
        assert (await answered(node, address, "/healthz"))[0] == 200
        assert (await answered(node, address, "/readyz"))[0] == 503
        assert await node.stop() == 0
        assert len(events(node, "PostgreSQL could not be used while the history was being opened")) == 1
        assert [entry["event"] for entry in node.log if entry["level"] == "error"] == []
        notes.clear()
        await node.launch()
        await has_failed_twice()
        server.execute("DROP TRIGGER hindering ON hosts", database=name)
        await until(lambda: events(node, BEGAN[program]), what="it has begun")
        assert (await answered(node, address, "/readyz"))[0] == 200
        asyncio.get_running_loop().remove_reader(systemd)


@pytest.mark.heavy
async def test_a_stop_while_postgresql_hangs_is_soon_and_loses_nothing(
    nodes: Any, down_server: PostgresServer, tmp_path: Path
) -> None:
    """It takes less than a client that waits for an answer; the end that could not be recorded is in the slot."""
    gate = tmp_path / "gate"
    await asyncio.to_thread(down_server.start)
    node = nodes("a", down_server.url())
    await node.start()
    job = await node.submit(f"while [ ! -e {gate} ]; do sleep 0.05; done; echo over; echo > {gate}.over; exit 7")
    await until(lambda: node.keeper_of(job), what="it runs")
    down_server.freeze()
    try:
        asked = asyncio.ensure_future(node.ask("GET", "/api/jobs"))
        gate.touch()
        await until((tmp_path / "gate.over").exists, what="it has ended")
        assert await node.stop(10) == 0
        await asyncio.wait([asked])
        assert asked.exception() is not None
    finally:
        down_server.thaw()
    await node.start()
    result = await node.result(job)
    assert (result["ending"], result["exit_code"], result["stdout"]) == ("exited", 7, "over\n")


@pytest.mark.heavy
async def test_a_stop_while_postgresql_hangs_as_the_history_is_opened_is_a_success(
    nodes: Any, down_server: PostgresServer
) -> None:
    """Nothing waits for an answer that may never come."""
    import psycopg  # noqa: PLC0415  as a test that is skipped without it

    await asyncio.to_thread(down_server.start)
    with psycopg.connect(down_server.url()) as locking:
        locking.execute("LOCK TABLE jobs")
        node = nodes("a", down_server.url(), program="worker")
        await node.launch()
        await until(lambda: down_server.execute(_LOCKED), what="the history is being opened")
        down_server.freeze()
        try:
            assert await node.stop() == 0
        finally:
            down_server.thaw()


@pytest.mark.heavy
async def test_a_worker_waits_too(nodes: Any, down_server: PostgresServer) -> None:
    """It runs jobs once the database is there."""
    node = nodes("a", down_server.url(), program="worker")
    await node.launch()
    await logged(node, "waiting for PostgreSQL")
    assert events(node, "running jobs") == []
    await asyncio.to_thread(down_server.start)
    await logged(node, "running jobs")


@pytest.mark.parametrize("program", ["serve", "worker"])
async def test_a_stop_while_it_waits_is_a_success(nodes: Any, program: str) -> None:
    """It ends with 0 and makes no line of a failure, though the address never answers."""
    with socket.socket() as silent:  # accepts nothing: an attempt to connect takes as long as it may
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        port = silent.getsockname()[1]
        node = nodes("a", f"postgresql://u:{HUNTER}@127.0.0.1:{port}/db", program=program)
        await node.launch()
        await until((node.state_dir / "lock").exists, what="it has begun")
        assert await node.stop() == 0
    assert [entry["event"] for entry in node.log if entry["level"] != "info"] == []
    assert HUNTER not in str(node.log)


@pytest.mark.heavy
async def test_systemd_is_asked_for_time_while_a_node_waits(
    nodes: Any, down_server: PostgresServer, tmp_path: Path
) -> None:
    """systemctl shows what it waits for; READY comes afterwards. The watchdog is fed while the database is away."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.setblocking(False)
        node = nodes("a", down_server.url(), program="worker")
        node.environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"}
        notes: list[str] = []
        # All the time: while nobody reads, the node waits a second for each note.
        asyncio.get_running_loop().add_reader(systemd, lambda: notes.append(systemd.recv(4096).decode()))

        async def noted(note: str) -> None:
            await until(lambda: note in notes, what=f"systemd gets {note}")

        await node.launch()
        await noted("EXTEND_TIMEOUT_USEC=30000000\n")
        assert "STATUS=waiting for PostgreSQL: " in "".join(notes)
        assert "READY=1" not in "".join(notes)
        await asyncio.to_thread(down_server.start)
        await noted("READY=1\nSTATUS=running jobs as a\n")
        await asyncio.to_thread(down_server.stop, "immediate")
        await logged(node, "the history cannot be written")
        notes.clear()
        await noted("WATCHDOG=1\n")
        await asyncio.to_thread(down_server.start)
        await logged(node, "the history can be written again")
        await node.stop()
        await noted("STOPPING=1\n")
        asyncio.get_running_loop().remove_reader(systemd)


# What runs


def listening_sockets(pid: int) -> list[str]:
    """Return the TCP addresses on which a process listens."""
    links = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()]
    rows = [
        row.split()
        for name in ("tcp", "tcp6")
        for row in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]
    ]
    return [row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in links]


@pytest.mark.heavy
async def test_jobs_of_a_node_without_a_worker_run_at_a_worker(nodes: Any, database: str) -> None:
    """It accepts them, starts no keeper, and shows their results; the worker listens on no address."""
    api, worker = nodes("api", database, "--no-worker"), nodes("one", database, program="worker")
    await api.start()
    job = await api.submit("echo from $PWD", cwd="/")
    assert (await api.status(job))["state"] == "queued"
    await worker.launch()
    assert (await logged(worker, "running jobs"))["node"] == "one"
    assert (await api.result(job))["stdout"] == "from /\n"
    assert (await api.run("exit 3"))["exit_code"] == 3
    assert api.keepers() == []
    assert worker.keepers()
    assert listening_sockets(worker.process.pid) == []
    assert listening_sockets(api.process.pid)
    assert events(api, "listening")[0]["node"] == "api"


@pytest.mark.heavy
async def test_a_worker_takes_jobs_of_its_queues_only(nodes: Any, database: str) -> None:
    """A job of another queue waits for a worker that has it."""
    queues = {"QUEUES__FAST": "{}", "QUEUES__SLOW": "{}"}
    api = nodes("api", database, "--no-worker", **queues)
    fast = nodes("fast", database, program="worker", WORKER__QUEUES='["fast"]', **queues)
    rest = nodes("rest", database, program="worker", WORKER__QUEUES='["default", "slow"]', **queues)
    await api.start()
    await fast.launch()
    await logged(fast, "running jobs")
    slow_job, fast_job = await api.submit("echo slow", queue="slow"), await api.submit("echo fast", queue="fast")
    assert (await api.result(fast_job))["stdout"] == "fast\n"
    assert (await api.status(slow_job))["state"] == "queued"
    await rest.launch()
    assert (await api.result(slow_job))["stdout"] == "slow\n"


@pytest.mark.heavy
async def test_a_host_whose_disk_is_full_leaves_jobs_to_others(nodes: Any, database: str) -> None:
    """With less free than `store.min_free_bytes` it accepts jobs, says why it starts none, and another host does."""
    full = nodes("full", database, STORE__MIN_FREE_BYTES=1 << 60)
    await full.start()
    job = await full.submit("echo elsewhere")
    await logged(full, "no job is started here: the disk is nearly full")
    assert (await full.status(job))["state"] == "queued"
    other = nodes("other", database, program="worker")
    await other.launch()
    assert (await full.result(job))["stdout"] == "elsewhere\n"
    assert [entry["event"] for entry in full.log if entry["event"] == "job ended"] == []


@pytest.mark.heavy
async def test_running_jobs_outlive_a_worker(nodes: Any, database: str, tmp_path: Path) -> None:
    """SIGHUP reloads limits; after SIGTERM the command continues, and the next worker of the host has its end."""
    api, worker = nodes("api", database, "--no-worker"), nodes("one", database, program="worker")
    await api.start()
    await worker.launch()
    await logged(worker, "running jobs")
    job = await api.submit(f"until [ -e {tmp_path}/go ]; do sleep 0.05; done; echo over")
    keeper = await worker.running(job)
    worker.process.send_signal(signal.SIGHUP)
    await logged(worker, "reloaded")
    assert await worker.stop() == 0
    assert worker.log[-1]["event"] == "stopped; running jobs continue under their keepers"
    assert lives(keeper.pid)
    (tmp_path / "go").touch()
    await worker.launch()
    result = await api.result(job)
    assert (result["stdout"], result["ending"], result["attempt"]) == ("over\n", "exited", 1)


@pytest.mark.heavy
async def test_a_host_that_stops_running_jobs_sees_its_own_to_their_end(
    nodes: Any, database: str, tmp_path: Path
) -> None:
    """Started again without a worker, it adopts what it has started before, and takes nothing new."""
    node = nodes("a", database)
    await node.start()
    job = await node.submit(f"until [ -e {tmp_path}/go ]; do sleep 0.05; done; echo over")
    await node.running(job)
    await node.stop()
    node.program.append("--no-worker")
    await node.start()
    later = await node.submit("echo later")
    (tmp_path / "go").touch()
    assert (await node.result(job))["stdout"] == "over\n"
    assert (await node.status(later))["state"] == "queued"


# What is never shown


@pytest.mark.heavy
async def test_the_password_is_shown_nowhere(nodes: Any, database: str) -> None:
    """Neither a log, an argument, a document of the API, a metric nor an environment of a command has it."""
    api = nodes("api", database)
    await api.start()
    password = postgres.shared().password
    secrets = (password, quote(password))
    assert (await api.run("env; cat /proc/$PPID/cmdline"))["ending"] == "exited"
    texts = [str(api.log), Path(f"/proc/{api.process.pid}/cmdline").read_text()]
    for path in ("/api", "/metrics", "/api/openapi.json", "/api/results/1", "/readyz", "/api/queues"):
        async with api.session.get(api.url + path) as response:
            assert response.status == 200
            texts.append(await response.text())
    texts += [path.read_text(errors="replace") for path in api.state_dir.rglob("*.log")]
    name = database.partition("?")[0].rpartition("/")[2]
    postgres.shared().execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    await asyncio.to_thread(postgres.shared().terminate_connections, name)

    async def submitted(expected: int) -> bool:
        async with api.session.post(f"{api.url}/api/jobs", json={"command": "true"}) as response:
            texts.append(await response.text())
            return bool(response.status == expected)

    await until(lambda: submitted(503), what="it has noticed that the connection is lost")
    await until(lambda: "is not currently accepting connections" in texts[-1] or submitted(503))
    postgres.shared().execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    await until(lambda: submitted(202), what="it has connected again")
    texts.append(str(api.log))
    assert [secret for secret in secrets if secret in "\n".join(texts)] == []


@pytest.mark.heavy
async def test_a_wrong_password_is_reported_without_it(nodes: Any, database: str) -> None:
    """The reason is PostgreSQL's; the node waits, as the password may be changed there."""
    node = nodes("a", database.replace(postgres.shared().password, HUNTER), program="worker")
    await node.launch()
    waiting = await logged(node, "waiting for PostgreSQL")
    assert "password authentication failed" in waiting["reason"]
    assert HUNTER not in str(node.log)
    assert await node.stop() == 0


@pytest.mark.heavy
@pytest.mark.real_exec
def test_a_node_imports_what_it_needs() -> None:
    """With a URL both packages are loaded, which the test of an idle server without one would notice."""
    program = [sys.executable, "-X", "importtime", "-m", "shellrunner", "migrate"]
    environment = {**os.environ, "SHELLRUNNER_STORE__URL": NOWHERE}
    done = subprocess.run(program, capture_output=True, text=True, check=False, env=environment)
    loaded = set(re.findall(r"(?m)^import time: .*\| +(\S+)$", done.stderr))
    assert {"psycopg", "pgqueuer", "shellrunner.store.postgres.engine"} <= loaded
    assert not {name for name in loaded if name.split(".")[0] == "aiohttp"}


@pytest.mark.heavy
@pytest.mark.parametrize("program", ["serve", "worker"])
async def test_a_database_that_is_lost_while_it_is_opened_is_waited_for(
    nodes: Any, database: str, program: str
) -> None:
    """Whenever its connections end in the start of a node: the node is not ended by that, and starts in the end."""
    server, name = postgres.shared(), database.rpartition("/")[2].partition("?")[0]
    began, lost = BEGAN[program], 0
    for number in range(12):
        node = nodes(f"{program}{number}", database, program=program)
        await node.launch()

        async def has_begun(node: Service = node) -> bool:
            return bool(events(node, began)) or node.process.returncode is not None

        for _ in range(8 * number):  # later and later
            if await has_begun():
                break
            server.execute(_END_CONNECTIONS, name)
            await asyncio.sleep(0.005)
        await until(has_begun, what="it has begun")
        assert node.process.returncode is None, node.log
        lost += len(events(node, "PostgreSQL could not be used while the history was being opened"))
        await node.kill()
    assert lost
