"""`shellrunner import`: a single host's history in PostgreSQL, with all that it had; and what is refused."""

import asyncio
import contextlib
import json
import os
import shutil
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from shellrunner.store.postgres import schema
from tests.support import postgres
from tests.support.command_line import Done, Typist
from tests.support.service import Service
from tests.support.waiting import until

# 100,000 bytes beyond a slot's 64 KiB, on both streams.
LARGE = "head -c 150000 /dev/zero | tr '\\0' a; head -c 15536 /dev/zero | tr '\\0' b >&2"
# More extents than a slot has index entries.
MANY_EXTENTS = "for i in $(seq 700); do echo o$i; echo e$i >&2; done"
KEYED = {"command": "echo key", "queue": "other"}
KEY = {"Idempotency-Key": '"one"'}

Import = Callable[..., Any]


@pytest.fixture
def url() -> Iterator[str]:
    """Yield the URL of a database with the tables, and no job."""
    name = postgres.shared().create_database()
    schema.migrate(postgres.shared().url(name))
    yield postgres.shared().url(name)
    postgres.shared().drop_database(name)


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Service]:
    """Yield a single host that is running."""
    service = Service(tmp_path / "host", SUPERVISOR__MAX_RUNNING=3)
    await service.start()
    yield service
    await service.clear_away()


@pytest.fixture
async def node(tmp_path: Path, url: str) -> AsyncIterator[Service]:
    """Yield a node on the database, still to be started."""
    service = Service(tmp_path / "node", STORE__URL=url, WORKER__NAME="one")
    service.program = [sys.executable, "-m", "shellrunner", "serve", "--port", "0"]
    yield service
    await service.clear_away()


@pytest.fixture
def typed(tmp_path: Path, url: str) -> Import:
    """Return a function that imports a state directory by the command line."""
    typist = Typist(tmp_path, SHELLRUNNER_STORE__URL=url)

    async def run(state_dir: Path, *options: str) -> Done:
        return await typist.run("import", state_dir, *options)

    return run


async def listed(service: Service) -> dict[int, Any]:
    """Return each job as the list has it, by id."""
    status, _, body = await service.get("/api/jobs?limit=1000")
    assert status == 200
    return {each["job_id"]: each for each in body["jobs"]}


def without_host(document: Any) -> Any:
    """Return a document without what only several hosts have."""
    if isinstance(document, dict):
        return {name: without_host(value) for name, value in document.items() if name not in ("host", "found")}
    return [without_host(each) for each in document] if isinstance(document, list) else document


async def fill(host: Service) -> dict[str, int]:
    """Run and submit jobs of all kinds; return their ids by name."""
    assert (await host.ask("PUT", "/api/queues/other", json={"max_running": 2}))[0] in (200, 201)
    ids = {
        "large": await host.submit(LARGE, labels={"kind": "large", "team": "a"}),
        "many": await host.submit(MANY_EXTENTS, name="Strasse"),
        "code": await host.submit("echo short; echo err >&2; exit 3", queue="other"),
        "signal": await host.submit("kill -9 $$"),
        "retried": await host.submit(f"{LARGE}; exit 1", retries={"max": 1}),
        "deleted": await host.submit("echo gone"),
    }
    for job_id in ids.values():
        await host.result(job_id)
    assert (await host.ask("DELETE", f"/api/results/{ids['deleted']}"))[0] == 204
    assert (await host.ask("POST", "/api/queues/other/pause"))[0] == 200
    ids["secret"] = await host.submit('echo "$WORD"; cat', env={"WORD": "hunter2"}, stdin="typed in\n", queue="other")
    ids["queued"] = await host.submit("echo later", queue="other", priority=7)
    ids["after"] = await host.submit("echo after", after=[ids["queued"]])
    ids["due"] = await host.submit("echo due", start_at="2099-01-01T00:00:00Z")
    ids["held"] = await host.submit("echo held", held=True)
    status, headers, body = await host.ask("POST", "/api/jobs", json=KEYED, headers=KEY)
    assert status == 202, body
    ids["key"] = int(headers["Location"].rpartition("/")[2])
    return ids


async def outputs(service: Service, ids: dict[str, int]) -> dict[str, Any]:
    """Return the whole output, and ranges of it, of the jobs that have some."""
    found = {}
    for name in ("large", "many", "code", "retried"):
        path = f"/api/results/{ids[name]}"
        found[name] = [await service.raw(ids[name], stream) for stream in ("stdout", "stderr")]
        found[name].append((await service.get(f"{path}/stdout", headers={"Range": "bytes=70000-70100"}))[2])
    found["first attempt"] = (await service.get(f"/api/results/{ids['retried']}/stdout?attempt=1"))[2]
    return found


@pytest.mark.heavy
async def test_everything_comes_along(host: Service, node: Service, typed: Import) -> None:
    """Documents, output, queues and keys are as they were; what waited runs, with its secrets; ids go on."""
    ids = await fill(host)
    jobs, written = await listed(host), await outputs(host, ids)
    queues = (await host.get("/api/queues"))[2]
    await host.stop()
    before = {path: path.read_bytes() for path in host.state_dir.rglob("*") if path.is_file()}

    done = await typed(host.state_dir)
    assert (done.code, done.err) == (0, "")
    assert f"imported {len(ids)} jobs, ".encode() in done.out

    after = {path: path.read_bytes() for path in host.state_dir.rglob("*") if path.is_file()}
    for path in ("history.db", *(f"runs/{name}" for name in os.listdir(host.state_dir / "runs"))):
        assert after[host.state_dir / path] == before[host.state_dir / path]
    await node.start()
    assert without_host(await listed(node)) == without_host(jobs)
    assert await outputs(node, ids) == written
    assert [len(each) for each in written["large"][:2]] == [150_000, 15_536]
    assert (await node.get(f"/api/results/{ids['deleted']}"))[0] == 410
    assert (await node.get("/api/queues"))[2] == queues
    again = await node.ask("POST", "/api/jobs", json=KEYED, headers=KEY)
    assert again[1]["Location"] == f"/api/statuses/{ids['key']}"
    other = await node.ask("POST", "/api/jobs", json=KEYED | {"priority": 1}, headers=KEY)
    assert other[0] == 422

    found = (await node.get("/api/jobs?q=STRASSE"))[2]["jobs"]
    assert [each["job_id"] for each in found] == [ids["many"]]
    assert (await node.ask("POST", "/api/queues/other/resume"))[0] == 200
    assert (await node.result(ids["secret"]))["stdout"] == "hunter2\ntyped in\n"
    assert (await node.result(ids["after"]))["stdout"] == "after\n"
    assert await node.submit("true") == max(ids.values()) + 1


@pytest.mark.heavy
async def test_metrics_and_counts_are_exact_afterwards(host: Service, url: str, typed: Import) -> None:
    """Counts of states, the number of done jobs and their bytes are what the rows say."""
    await fill(host)
    await host.stop()
    done = await typed(host.state_dir)
    assert done.code == 0, done.err
    with psycopg.connect(url) as db:
        counted = db.execute(
            "SELECT queue, sum(waiting), sum(queued), sum(running) FROM counts GROUP BY 1"
        ).fetchall()
        rows = db.execute("""SELECT queue, count(*) FILTER (WHERE state = 'waiting'),
            count(*) FILTER (WHERE state = 'queued'), count(*) FILTER (WHERE state = 'running')
            FROM jobs WHERE state != 'done' GROUP BY 1""").fetchall()
        assert sorted(counted) == sorted(rows)
        ((keys, sealed),) = db.execute("""SELECT (SELECT count(*) FROM job_keys WHERE name != 'idempotency'),
            (SELECT count(*) FROM jobs WHERE secrets IS NOT NULL)""").fetchall()
        assert keys == sealed == 1
        assert db.execute("SELECT count(*) FROM pgqueuer").fetchone() == (3,)
        assert db.execute("SELECT to_regclass('search_trigrams') IS NOT NULL").fetchone() == (True,)


@pytest.mark.heavy
async def test_a_history_in_use_is_refused(host: Service, typed: Import) -> None:
    """While a server holds the lock nothing is read."""
    done = await typed(host.state_dir)
    assert (done.code, "another server" in done.err) == (1, True), done.err


@pytest.mark.heavy
async def test_only_an_empty_database_is_imported_into(host: Service, node: Service, url: str, typed: Import) -> None:
    """Not while a node lives, and not beside other jobs; the second import is refused, too."""
    await host.run("true")
    await host.stop()
    await node.start()
    refused = await typed(host.state_dir)
    assert (refused.code, "servers use the database (one): stop them" in refused.err) == (1, True), refused.err
    await node.stop()
    with psycopg.connect(url, autocommit=True) as db:
        db.execute("UPDATE hosts SET seen = seen - interval '1 minute'")
    done = await typed(host.state_dir)
    assert done.code == 0, done.err
    refused = await typed(host.state_dir)
    assert (refused.code, "the database has a history already (in jobs" in refused.err) == (1, True), refused.err


@pytest.mark.heavy
async def test_running_jobs_are_refused_or_lost_with_their_output(
    host: Service, node: Service, url: str, typed: Import
) -> None:
    """Refused with what to do; with --lose-running their output is there, and what waited for them is skipped."""
    large = await host.submit(f"{LARGE}; echo written > done; sleep 1000", cwd=str(host.state_dir))
    short = await host.submit("echo begun; sleep 1000")
    after = await host.submit("echo after", after=[short])
    await until((host.state_dir / "done").exists)
    await until(lambda: host.keeper_of(short))
    await asyncio.sleep(0)
    await host.kill()
    refused = await typed(host.state_dir)
    assert refused.code == 1
    assert f"by this history, 2 jobs still run ({large}, {short}): start its server again" in refused.err
    with psycopg.connect(url) as db:
        assert db.execute("SELECT count(*) FROM jobs").fetchone() == (0,)

    done = await typed(host.state_dir, "--lose-running")
    assert (done.code, b"imported 3 jobs, 2 of them lost" in done.out) == (0, True), done
    await node.start()
    result = (await node.get(f"/api/results/{large}"))[2]
    assert result["ending"] == "lost"
    assert (await node.raw(large)) == b"a" * 150_000
    assert (await node.raw(large, "stderr")) == b"b" * 15_536
    assert (await node.raw(short)) == b"begun\n"
    assert (await node.result(after))["ending"] == "skipped"


@pytest.mark.heavy
async def test_all_or_nothing(host: Service, url: str, typed: Import) -> None:
    """If the last statement fails, nothing is there; the message has the reason and no password."""
    await fill(host)
    await host.stop()
    with psycopg.connect(url, autocommit=True) as db:
        db.execute("""CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE 'not here'; END $$;
            CREATE TRIGGER refuse BEFORE INSERT ON sizes EXECUTE FUNCTION refuse()""")
        done = await typed(host.state_dir)
        assert (done.code, "nothing was imported: not here" in done.err) == (1, True), done.err
        assert postgres.shared().password not in done.err
        for table in ("jobs", "outputs", "chunks", "keys", "job_keys", "search"):
            assert db.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table


@pytest.mark.heavy
async def test_a_nul_character_is_reported_with_its_job(host: Service, node: Service, typed: Import) -> None:
    """PostgreSQL has none in its texts, and an early version stored them in labels; the message says what to do."""
    await host.run("echo one")
    job = (await host.run("echo two", labels={"stage": "build"}))["job_id"]
    await host.stop()
    with contextlib.closing(sqlite3.connect(host.state_dir / "history.db")) as db:
        db.execute("UPDATE labels SET value = 'a' || char(0) || 'b'")
        db.execute("UPDATE jobs SET spec = replace(spec, ?, ?)", ('"build"', r'"a\u0000b"'))
        db.commit()
    done = await typed(host.state_dir)
    message = (
        f"nothing was imported: job {job} has a NUL character, which PostgreSQL does not store, in the table labels"
    )
    assert (done.code, f"{message} (value)" in done.err) == (1, True), done.err
    assert len(done.err.splitlines()) == 1
    await host.start()
    assert (await host.ask("DELETE", f"/api/jobs/{job}"))[0] == 204
    await host.stop()
    done = await typed(host.state_dir)
    assert done.code == 0, done.err
    await node.start()
    assert [*await listed(node)] == [job - 1]


@pytest.mark.heavy
async def test_what_is_missing_in_the_files_is_reported(host: Service, node: Service, typed: Import) -> None:
    """An output whose file was removed, and a job whose key was, are warnings; the job fails to start."""
    large = await host.run(LARGE)
    assert (await host.ask("POST", "/api/queues/default/pause"))[0] == 200
    secret = await host.submit("true", env={"WORD": "hunter2"})
    await host.stop()
    shutil.rmtree(host.state_dir / "runs")
    (host.state_dir / "runs").mkdir()
    for path in (host.state_dir / "keys").iterdir():
        path.unlink()
    done = await typed(host.state_dir)
    assert done.code == 0
    assert "1 outputs lack bytes" in done.err
    assert "1 jobs will fail to start" in done.err
    await node.start()
    assert (await node.raw(large["job_id"]))[:10] == b"a" * 10
    assert (await node.ask("POST", "/api/queues/default/resume"))[0] == 200
    assert (await node.result(secret))["ending"] == "failed_to_start"
    assert json.dumps(done.err).find("hunter2") < 0
