"""Database roles of nodes: PostgreSQL refuses what is not a node's part, and all verbs work under these roles."""

import json
import secrets
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql

from shellrunner.errors import ShellrunnerError
from shellrunner.store.postgres import schema
from shellrunner.store.postgres.engine.postgres_db import PostgresDb
from shellrunner.store.postgres.hosts.reconciler import skip_ids
from shellrunner.store.postgres.maintenance import roles
from tests.support import postgres
from tests.support.command_line import Typist
from tests.support.service import Service
from tests.support.waiting import until


class Roles:
    """A database with a role of each kind."""

    def __init__(self) -> None:
        server = postgres.shared()
        self.database = server.create_database(postgres.template(schema.migrate))
        self.admin = server.url(self.database)
        self.names: dict[str, str] = {}
        self._passwords: dict[str, str] = {}
        for kind in roles.KINDS:
            name = self.names[kind] = f"{kind}-{secrets.token_hex(4)}"
            self._passwords[kind] = secrets.token_hex(8)
            statement = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}")
            with psycopg.connect(self.admin, autocommit=True) as db:
                db.execute(statement.format(sql.Identifier(name), sql.Literal(self._passwords[kind])))

    def url(self, kind: str) -> str:
        """Return the URL with which a node of this kind connects."""
        server = postgres.shared()
        place = f"host={quote(str(server.socket_directory), safe='')}&port={server.port}"
        return f"postgresql://{self.names[kind]}:{self._passwords[kind]}@/{self.database}?{place}"

    def drop(self) -> None:
        """Remove all of it."""
        server = postgres.shared()
        server.drop_database(self.database)
        for name in self.names.values():
            server.execute(f'DROP ROLE "{name}"')


@pytest.fixture
def database() -> Iterator[Roles]:
    """Yield a database whose roles were granted what they need."""
    made = Roles()
    roles.grant(made.admin, {name: kind for kind, name in made.names.items()})
    yield made
    made.drop()


@pytest.fixture
async def cluster(tmp_path: Path, database: Roles) -> AsyncIterator[tuple[Service, Service]]:
    """Yield an API node that runs nothing, and a worker."""
    api = Service(tmp_path / "api", STORE__URL=database.url("api"), WORKER__NAME="api")
    api.program = [sys.executable, "-m", "shellrunner", "serve", "--no-worker", "--port", "0"]
    worker = Service(tmp_path / "worker", STORE__URL=database.url("worker"), WORKER__NAME="worker")
    worker.program = [sys.executable, "-m", "shellrunner", "worker"]
    await api.start()
    await worker.launch()
    yield api, worker
    for node in (worker, api):
        await node.clear_away()


INSERT = "INSERT INTO jobs (state, priority, created, command, spec{0}) VALUES ('{1}', 0, 1, 'id', '{{}}'{2})"
CLAIM = "UPDATE jobs SET state = 'running', token = 't', host = 'h', keeper = 1 WHERE state = 'queued'"
END = "UPDATE jobs SET state = 'done', ending = 'exited', exit_code = 0, completed = 1 WHERE state = 'running'"
DDL = (
    "CREATE TABLE mine (x int)",
    "ALTER TABLE jobs ADD COLUMN mine int",
    "DROP TABLE jobs",
    "TRUNCATE jobs",
    "ALTER TABLE jobs DISABLE TRIGGER guard_job",
    "CREATE OR REPLACE FUNCTION guard_job() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$",
    "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "UPDATE node_roles SET kind = 'node'",
    "DELETE FROM node_roles",
    "DELETE FROM meta",
    "ALTER TABLE jobs OWNER TO CURRENT_USER",
    "UPDATE jobs SET state = 'queued', token = NULL WHERE state = 'done'",
)
REFUSED = {
    "api": (
        CLAIM,
        "UPDATE jobs SET state = 'running' WHERE state = 'queued'",
        "UPDATE jobs SET token = 't' WHERE state = 'queued'",
        "UPDATE jobs SET token = 't' WHERE state = 'running'",
        "UPDATE jobs SET host = 'h' WHERE state = 'running'",
        END,
        END.replace("'exited'", "'cancelled'"),
        END.replace("'exited'", "NULL"),
        "UPDATE jobs SET state = 'queued' WHERE state = 'running'",
        "UPDATE jobs SET state = 'waiting' WHERE state = 'running'",
        INSERT.format(", token", "running", ", 't'"),
        INSERT.format(", ending", "done", ", 'exited'"),
        "UPDATE jobs SET state = 'queued', attempt = attempt + 2 WHERE state = 'running'",
        "INSERT INTO attempts VALUES (1, 1, 1, 1, 'exited', 0, NULL, NULL, 1, 0, 0, 0, 0)",
        "INSERT INTO outputs VALUES (1, '', '')",
        "INSERT INTO chunks VALUES (1, 1, 0, 0, 0, 0, 0, 0, '', '')",
        "CREATE TEMP TABLE node_roles (name text, kind text); " + CLAIM,
    ),
    "worker": (
        INSERT.format("", "queued", ""),
        INSERT.format("", "waiting", ""),
        "INSERT INTO keys VALUES ('i', 'k', '', 1, 1)",
        "UPDATE jobs SET command = 'id' WHERE state = 'queued'",
        "UPDATE jobs SET spec = '{}' WHERE state = 'queued'",
        "UPDATE jobs SET run_as = 'root' WHERE state = 'queued'",
        "UPDATE jobs SET submitter = 'x' WHERE state = 'queued'",
        "UPDATE jobs SET queue = 'x' WHERE state = 'queued'",
        "INSERT INTO labels VALUES ('k', 'v', 1)",
        "INSERT INTO callbacks (job, host, state) VALUES (1, 'h', 's')",
        "INSERT INTO sessions VALUES ('', 't', 1)",
        "DELETE FROM paused",
        "UPDATE queues SET max_running = 1",
    ),
    "node": (),
}


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("kind", "statement"), [(kind, each) for kind, refused in REFUSED.items() for each in (*refused, *DDL)]
)
def test_the_server_refuses_what_is_not_its_part(database: Roles, kind: str, statement: str) -> None:
    """Each statement is refused by PostgreSQL itself; an admin could execute the jobs' ones."""
    with psycopg.connect(database.admin) as db:
        for state, token in (("queued", None), ("running", "a"), ("done", None)):
            db.execute(
                "INSERT INTO jobs (state, token, priority, created, command, spec) VALUES (%s, %s, 0, 1, 'x', '{}')",
                [state, token],
            )
    with psycopg.connect(database.url(kind)) as db, pytest.raises(psycopg.errors.InsufficientPrivilege):
        db.execute(statement)


@pytest.mark.heavy
def test_what_is_refused_is_possible_otherwise(database: Roles) -> None:
    """The test above can fail: a worker claims and ends, an API node accepts and cancels what has not started."""
    with psycopg.connect(database.url("api")) as db:
        db.execute(INSERT.format("", "queued", ""))
        db.execute(INSERT.format("", "queued", ""))
        db.execute("UPDATE jobs SET state = 'done', ending = 'cancelled', completed = 1 WHERE id = 2")
    with psycopg.connect(database.url("worker")) as db:
        assert db.execute(CLAIM).rowcount == 1
        assert db.execute(END).rowcount == 1


UNUSED = {"node_roles", "pgqueuer_schedules", "pgqueuer_statistics"}  # by nodes


@pytest.mark.parametrize("kind", roles.KINDS)
def test_no_table_is_forgotten(database: Roles, kind: str) -> None:
    """Each kind has a grant for each table that there is, also for one that was added later."""
    with psycopg.connect(database.admin) as db:
        tables = db.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        assert {name for (name,) in tables} - UNUSED == roles.KINDS[kind].keys()


@pytest.mark.parametrize("kind", roles.KINDS)
def test_ids_can_be_skipped(database: Roles, kind: str) -> None:
    """Each kind may have ids continue above those that a history has forgotten, and read the last one."""
    with psycopg.connect(database.url(kind)) as db:
        skip_ids(PostgresDb(db))
        assert db.execute("SELECT last_value FROM jobs_id_seq").fetchone() == (1_000_001,)


@pytest.mark.heavy
async def test_a_killed_worker_starts_again(cluster: tuple[Service, Service]) -> None:
    """Its role may read what has to be compared with the journal of what it has started."""
    api, worker = cluster
    await api.run("true")
    await worker.kill()
    await worker.launch()
    assert (await api.run("echo again"))["stdout"] == "again\n"


@pytest.mark.heavy
async def test_a_role_without_privileges_is_named(tmp_path: Path) -> None:
    """A node does not wait for them, and says what gives them to its role."""
    database = Roles()
    try:
        name = database.names["worker"]
        refused = await Typist(tmp_path, SHELLRUNNER_STORE__URL=database.url("worker")).run("worker")
        assert refused.code == 1
        assert f"the role '{name}' has no privileges on the tables: run `shellrunner migrate --role" in refused.err
    finally:
        database.drop()


@pytest.mark.heavy
async def test_only_the_owner_imports(tmp_path: Path, database: Roles) -> None:
    """A node's role is refused, and the message says whose URL is needed."""
    async with running(Service(tmp_path / "host")) as host:
        await host.run("true")
        await host.stop()
        typist = Typist(tmp_path, SHELLRUNNER_STORE__URL=database.url("node"))
        refused = await typist.run("import", host.state_dir)
    assert refused.code == 1
    assert "use the URL of the role that owns the tables, as for `shellrunner migrate`" in refused.err


@asynccontextmanager
async def running(service: Service) -> AsyncIterator[Service]:
    """Yield a service that was started; clear it away."""
    try:
        yield await service.start()
    finally:
        await service.clear_away()


async def ask(node: Service, verb: str, path: str, *expected: int, **options: Any) -> Any:
    """Ask, and return the body; the status is one of those that are expected."""
    status, _, body = await node.ask(verb, path, **options)
    assert status in (expected or (200, 202, 204)), (path, status, body)
    return body


@pytest.mark.heavy
async def test_a_walk_through_all_verbs(cluster: tuple[Service, Service]) -> None:
    """Under these roles nothing is missing: no node logs an error, and each verb has its effect."""
    api, worker = cluster
    await until(lambda: api.get("/api/workers"))
    result = await api.run('cat; echo "$WORD" >&2', stdin="in", env={"WORD": "w"}, labels={"a": "b"}, name="n")
    assert (result["stdout"], result["stderr"]) == ("in", "w\n")
    large = await api.run("head -c 300000 /dev/zero | tr '\\0' a")
    assert len(await api.raw(large["job_id"])) == 300_000
    retried = await api.run("exit 1", retries={"max": 1})
    assert retried["exit_code"] == 1
    first = await api.submit("read line; exit 0", stdin={"stream": True})
    after = await api.submit("echo after", after=[first])
    await until(lambda: worker.keeper_of(first))
    await ask(api, "POST", f"/api/jobs/{first}/pause")
    await ask(api, "POST", f"/api/jobs/{first}/resume")
    async with api.session.get(f"{api.url}/api/statuses/{first}/events?writer=a") as events:
        await events.content.readline()
        await ask(api, "POST", f"/api/jobs/{first}/stdin?writer=a&end=true", data=b"line\n",
                  headers={"Content-Type": "application/octet-stream"})  # fmt: skip
    assert (await api.result(after))["stdout"] == "after\n"
    signalled = await api.submit("sleep 1000")
    await until(lambda: worker.keeper_of(signalled))
    await ask(api, "POST", f"/api/jobs/{signalled}/signal", json={"signal": "SIGKILL"})
    assert (await api.result(signalled))["signal"] == "SIGKILL"
    cancelled = await api.submit("sleep 1000")
    await until(lambda: worker.keeper_of(cancelled))
    await ask(api, "POST", f"/api/jobs/{cancelled}/cancel")
    assert (await api.result(cancelled))["ending"] == "cancelled"

    held = await api.submit("true", held=True)
    await ask(api, "PATCH", f"/api/jobs/{held}", json={"priority": 3}, headers={"Content-Type": PATCH})
    await ask(api, "PATCH", f"/api/jobs/{held}", json={"held": False}, headers={"Content-Type": PATCH})
    assert (await api.result(held))["ending"] == "exited"
    never = await api.submit("true", start_at="2099-01-01T00:00:00Z")
    await ask(api, "POST", f"/api/jobs/{never}/cancel")
    assert (await api.result(never))["ending"] == "cancelled"
    await ask(api, "PUT", "/api/queues/q", 200, 201, json={"max_running": 1})
    await ask(api, "POST", "/api/queues/q/pause")
    await api.submit("true", queue="q")
    many = await ask(api, "POST", "/api/jobs/batch", json={"jobs": [{"command": "true", "queue": "q"}] * 3})
    await ask(api, "POST", "/api/queues/q/resume")
    await api.result(many["jobs"][-1]["job_id"])
    await ask(api, "DELETE", f"/api/results/{large['job_id']}")
    await ask(api, "DELETE", f"/api/jobs/{retried['job_id']}")
    await ask(api, "POST", "/api/queues/pause")
    await ask(api, "POST", "/api/queues/resume")
    await ask(api, "POST", "/api/workers/worker/drain")
    await ask(api, "POST", "/api/workers/worker/resume")
    again = await ask(api, "POST", f"/api/jobs/{held}/again", 200, 201, 202, json={})
    await api.result(again["job_id"])
    assert (await worker.stop(), await api.stop()) == (0, 0)
    for node in cluster:
        assert not [line for line in node.log if "permission" in json.dumps(line) or "role of" in json.dumps(line)]


PATCH = "application/merge-patch+json"


@pytest.mark.heavy
async def test_a_lost_host_is_judged_by_an_api_node(cluster: tuple[Service, Service], database: Roles) -> None:
    """What an API node may record of a job that runs: that it is lost, when an admin removes its host."""
    api, worker = cluster
    job = await api.submit("sleep 1000")
    again = await api.submit("sleep 1000", retries={"max": 1, "on": ["lost"]})
    await until(lambda: worker.keeper_of(job) and worker.keeper_of(again))
    await worker.kill()
    with psycopg.connect(database.admin, autocommit=True) as db:
        db.execute("""UPDATE hosts SET seen = seen - interval '1 hour', unreachable = seen - interval '1 hour'
            WHERE name = 'worker'""")
    await ask(api, "DELETE", "/api/workers/worker?confirm=true", 200, 202, 204)
    assert (await api.result(job))["ending"] == "lost"
    status = await api.status(again)
    assert (status["state"], status["attempt"]) == ("queued", 2)


@pytest.mark.heavy
async def test_migrate_grants_roles(tmp_path: Path, database: Roles) -> None:
    """By the command line, again with each migration; a role that is not there, or owns the tables, is refused."""
    typist = Typist(tmp_path, SHELLRUNNER_STORE__URL=database.admin)
    again = await typist.run("migrate")
    assert again.code == 0
    for kind, name in database.names.items():
        assert f"the role {name} has what {kind} needs".encode() in again.out
    for option, reason in (
        ("api=nobody-there", "there is no role 'nobody-there': create it first"),
        ("worker=postgres", "the role 'postgres' is a superuser or owns the tables"),
        ("owner=x", "'owner=x' is not api=NAME, worker=NAME or node=NAME"),
    ):
        refused = await typist.run("migrate", "--role", option)
        assert (refused.code != 0, reason in refused.err) == (True, True), refused.err
    with pytest.raises(ShellrunnerError):
        roles.grant(database.admin, {"nobody-there": "api"})


@pytest.mark.heavy
def test_the_owner_of_the_database_grants_roles(database: Roles) -> None:
    """No superuser is needed: who owns the database makes the tables and grants the roles what they need."""
    server, owner, name = postgres.shared(), f"owner-{secrets.token_hex(4)}", f"owned_{secrets.token_hex(4)}"
    server.execute(f"CREATE ROLE \"{owner}\" LOGIN PASSWORD 'secret'")
    server.execute(f'CREATE DATABASE {name} OWNER "{owner}"')
    try:
        place = f"host={quote(str(server.socket_directory), safe='')}&port={server.port}"
        url = f"postgresql://{owner}:secret@/{name}?{place}"
        schema.migrate(url)
        roles.grant(url, {database.names["api"]: "api", database.names["worker"]: "worker"})
        with psycopg.connect(database.url("api").replace(database.database, name)) as db:
            db.execute(INSERT.format("", "queued", ""))
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="may not claim jobs"):
                db.execute(CLAIM)
        with (
            psycopg.connect(database.url("worker").replace(database.database, name)) as db,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            db.execute(INSERT.format("", "queued", ""))
    finally:
        server.drop_database(name)
        server.execute(f'DROP ROLE "{owner}"')
