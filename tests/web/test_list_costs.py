"""What a page of a list costs: statements, parsed specs, opened files; and that nothing in it is out of date."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from shellrunner.clock import now_ms
from shellrunner.model import Callback, Delivery, End, Ending, JobSpec, Notify, Retries
from shellrunner.store import rows
from shellrunner.store.output.spill import Spill
from shellrunner.web.handlers import row_cache
from shellrunner.web.handlers.row_cache import ROW_CACHE, RowCache, RowKey
from tests.support.site import Site

JOBS = 12


@pytest.fixture
async def some(site: Site) -> Site:
    """Jobs with output, each of another command."""
    for number in range(JOBS):
        await site.done(b"out %d\n" % number, b"err\n", command=f"job {number}")
    rows._parse_short.cache_clear()
    return site


@asynccontextmanager
async def recorded(site: Site) -> AsyncIterator[list[str]]:
    """Record the statements of the connections that lists are read on."""
    statements: list[str] = []

    def record(sql: str) -> None:
        if sql.startswith("SELECT"):
            statements.append(sql)

    queues = site.store._engine.reads  # type: ignore[attr-defined]
    for queue in queues:
        await queue.run_unit(lambda db: db.set_trace_callback(record))
    try:
        yield statements
    finally:
        for queue in queues:
            await queue.run_unit(lambda db: db.set_trace_callback(None))


@pytest.mark.sqlite(reason="it counts statements of SQLite")
@pytest.mark.parametrize(
    ("path", "first", "again"),
    [("jobs", 2, 2), ("statuses", 2, 2), ("results", 4, 3), ("results?fields=ending", 3, 3)],
)
async def test_a_page_is_a_few_statements(some: Site, path: str, first: int, again: int) -> None:
    """One finds the jobs, one reads them; of results, one reads the output of all that are not known yet."""
    for expected in (first, again):
        async with recorded(some) as statements:
            answer = await some.get(f"/api/{path}")
        assert len(answer.json[path.partition("?")[0]]) == JOBS
        assert len(statements) == expected, statements
        assert any(" data " in sql or " data\n" in sql for sql in statements) == (expected == 4)


@pytest.mark.sqlite(reason="it counts statements of SQLite")
async def test_no_spec_is_parsed_twice_and_statuses_read_none(some: Site) -> None:
    """A spec is parsed for the first page that shows its job, of whichever list, and never for a status."""

    def parsed() -> int:
        return rows._parse_short.cache_info().misses

    async with recorded(some) as statements:
        assert len((await some.get("/api/statuses")).json["statuses"]) == JOBS
    assert parsed() == 0
    assert not any(" spec" in sql for sql in statements)
    for path in ("jobs", "jobs", "jobs?fields=command", "results"):
        await some.get(f"/api/{path}")
        assert parsed() == JOBS


@pytest.mark.sqlite(reason="chunks of output are in the database, not in files")
async def test_a_page_of_results_opens_no_files_but_those_of_spilled_output(
    some: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Output that the history itself has is read from there; that of a file is looked at for each page."""
    opened: list[str] = []
    open_file = Spill._open

    def counted(spill: Spill, which: int) -> int:
        opened.append(spill._paths[which][0])
        return open_file(spill, which)

    monkeypatch.setattr(Spill, "_open", counted)
    assert len((await some.get("/api/results")).json["results"]) == JOBS
    assert opened == []
    spilled = await some.done(b"x" * 100_000)
    for _ in range(2):
        assert not opened
        assert len((await some.get("/api/results")).json["results"]) == JOBS + 1
        assert {path.split("/")[-1].split(".")[0] for path in opened} == {str(spilled)}
        opened.clear()
    (file,) = (some.state_dir / "runs").glob("*.out")
    os.truncate(file, 0)
    row = (await some.get("/api/results?limit=1")).json["results"][0]
    assert (row["stdout_bytes"], row["stdout_dropped"]) == (65_536, 34_464), (
        "what is missing by now counts as dropped"
    )


@pytest.mark.heavy
async def test_rows_are_what_the_single_documents_are(site: Site) -> None:
    """At every stage of a job, a list that was read before has what its document has now."""

    async def check() -> None:
        for _ in range(2):
            job = (await site.get("/api/jobs")).json["jobs"][0]
            assert job == (await site.get(f"/api/jobs/{job['job_id']}")).json
            status = (await site.get("/api/statuses")).json["statuses"][0]
            assert status == (await site.get(f"/api/statuses/{job['job_id']}")).json
            assert (await site.get("/api/statuses?fields=state")).json["statuses"][0] == {"state": status["state"]}
            results = (await site.get("/api/results")).json["results"]
            if status["result"]:
                assert results == [(await site.get(status["result"])).json]
            else:
                assert results == []

    runner = site.simulated_runner()
    failed = End(Ending.EXITED, now_ms(), exit_code=1, started=now_ms(), duration=0.5)
    spec = JobSpec(
        command="Обработать",
        labels={"a": "b"},
        env={"A": "b"},
        retries=Retries(max=1),
        notify=Notify(url="http://x/"),
    )
    stages: list[Callable[[], Awaitable[Any]]] = [
        lambda: site.store.add(spec),
        runner.claim,
        lambda: runner.finish(failed, next_attempt_at=1),
        runner.claim,
        lambda: site.ask("POST", "/api/jobs/1/cancel"),
        lambda: runner.finish(failed),
        lambda: site.store.record_callback_try(1, error="no answer", retry_at=10**15),
        lambda: site.store.record_callback_try(1, error=None, retry_at=None),
        lambda: site.ask("DELETE", "/api/results/1"),
    ]
    for stage in stages:
        await stage()
        await check()
    callback = (await site.store.job(1)).callback
    assert callback == Callback(Delivery.DELIVERED, 2)


def key(number: int) -> RowKey:
    """Return the key of a row of a job with a short specification."""
    return RowKey("row", rows.ListedRow((number, "{}")))


def test_the_rows_of_the_largest_page_are_kept() -> None:
    """A page of 1,000 rows that is read again and again is made once, also after other pages."""
    cache = RowCache()
    for _ in range(3):
        for number in range(1000):
            if cache.get(key(number)) is None:
                cache.put(key(number), b"x" * 2000)
        assert all(cache.get(key(number)) for number in range(1000))
    cache.put(key(1000), b"x")
    assert all(cache.get(key(number)) for number in range(1000))


def test_kept_rows_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are used stay, those that are not make way, and a large one is not kept at all."""
    monkeypatch.setattr(row_cache, "_MAX_SIZE", 20 * key(0).job.size)
    cache = RowCache()
    for number in range(200):
        cache.put(key(number), b"x" * 100)
        assert cache.get(key(0)) is not None
    kept = [number for number in range(200) if cache.get(key(number)) is not None]
    assert 15 < len(kept) < 40
    assert kept == [0, *range(200 - len(kept) + 1, 200)]
    cache.put(key(200), b"x" * (1 << 15))
    assert cache.get(key(200)) is None


async def test_short_documents_of_long_specifications_are_not_kept(site: Site) -> None:
    """The key of a kept status has the job's specification, so 3,500 of them once took up to 3.5 GB."""
    job = await site.done(argv=["true", "x" * 100_000])
    cache = site.app[ROW_CACHE]
    for path in (f"/api/statuses/{job}", "/api/results?fields=job_id", "/api/jobs?fields=job_id"):
        assert (await site.get(path)).status in (200, 303)
    assert cache.size == 0
    await site.get(f"/api/statuses/{await site.done()}")
    assert cache.size > 0


def test_specs_that_are_kept_are_bounded() -> None:
    """Only short ones are kept, and a damaged one never is."""
    before = rows._parse_short.cache_info()
    long = JobSpec(command="x" * 3000).model_dump_json(exclude_defaults=True)
    for _ in range(2):
        assert len(rows._spec(1, long).command_line) == 3000
    now = rows._parse_short.cache_info()
    assert (now.hits, now.misses) == (before.hits, before.misses)
    assert now.maxsize is not None
