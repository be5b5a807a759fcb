"""The metrics of a real service: complete from the start, true afterwards, in the requested format."""

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from shellrunner.metrics import Metrics
from shellrunner.model import Claim, End, Ending, JobSpec, Volume
from tests.support.function_calls import count_calls
from tests.support.service import InProcess, Service
from tests.support.waiting import until

REFERENCE = (Path(__file__).parent.parent / "docs/reference/metrics.md").read_text()

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
NATIVE = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.7," + PROMETHEUS_3
)
TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
# They exist only if the history is in PostgreSQL.
OF_SEVERAL_HOSTS = {
    *("shellrunner_hosts", "shellrunner_lease_age_seconds", "shellrunner_notifications_total"),
    *("shellrunner_database_transactions_total", "shellrunner_database_retries_total"),
    *("shellrunner_database_available", "shellrunner_claims_total", "shellrunner_unrecorded_ends"),
    *("shellrunner_unsent_outputs", "shellrunner_spill_bytes"),
}


class Scrape:
    """One answer, by sample name and labels."""

    def __init__(self, text: Any, parse: Any = parse_text) -> None:
        self.text = text
        self.families = list(parse(text))
        self.samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families
            for sample in family.samples
        }

    def __call__(self, name: Any, **labels: Any) -> Any:
        """Return the value of this sample; `shellrunner_` is left out."""
        return self.samples[f"shellrunner_{name}", frozenset(labels.items())]

    def endings(self, queue: str = "default") -> dict[Any, Any]:
        """Return the number of jobs of this queue by ending, without the endings that did not occur."""
        numbers = {ending: self("jobs_ended_total", queue=queue, ending=ending) for ending in Ending}
        return {ending: number for ending, number in numbers.items() if number}


async def scrape(service: Service) -> Any:
    """Scrape as curl would."""
    status, _, body = await service.get("/metrics")
    assert status == 200, body
    return Scrape(body.decode())


async def wait_for_sample(service: Service, name: Any, value: Any, **labels: Any) -> None:
    """Wait until this sample has this value."""

    async def has_value() -> bool:
        return bool((await scrape(service))(name, **labels) == value)

    await until(has_value, what=f"{name}{labels} is {value}")


def served(scraped: Any) -> set[Any]:
    """Each metric of an answer in the text format: its name as it is shown, its type, and its labels."""
    labels: dict[str, Any] = {}
    for name, pairs in scraped.samples:
        short = re.sub(r"_(bucket|sum|count)$", "", name)
        labels.setdefault(short, set()).update({label for label, _ in pairs} - {"le"})
    return {(name, kind, frozenset(labels[name])) for name, kind in re.findall(r"# TYPE (\S+) (\S+)", scraped.text)}


async def test_the_reference_has_every_metric(tmp_path: Path) -> None:
    """The table has each metric with its type and labels, and none that does not exist; see `tests/cluster`, too."""
    rows = re.findall(r"^\| `([a-z_]+)` \| (\w+) \| ([^|]*)\| [^|]+ \|$", REFERENCE, re.MULTILINE)
    async with InProcess(tmp_path) as service:
        documented = {(name, kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
        assert {each for each in documented if each[0] not in OF_SEVERAL_HOSTS} == served(await scrape(service))
    assert {name for name, _, _ in documented} > OF_SEVERAL_HOSTS


async def test_all_is_there_from_the_first_scrape(tmp_path: Path) -> None:
    """Before any job: help for each metric, and 0 for each ending, stream and outcome of each configured queue."""
    async with InProcess(tmp_path, queues={"slow": {"max_running": 2}}) as service:
        first = await scrape(service)
        assert all(family.documentation and family.samples for family in first.families)
        for queue in ("default", "slow"):
            assert all(first("jobs_ended_total", queue=queue, ending=ending) == 0 for ending in Ending)
            assert first("job_wait_seconds_count", queue=queue) == first("job_run_seconds_count", queue=queue) == 0
            assert first("queue_oldest_seconds", queue=queue) == first("queue_paused", queue=queue) == 0
        assert (first("queue_limit", queue="default"), first("queue_limit", queue="slow")) == (float("inf"), 2)
        assert {first("jobs", state=state) for state in ("waiting", "queued", "running", "done")} == {0}
        assert {first("output_bytes_total", stream=stream) for stream in ("stdout", "stderr")} == {0}
        assert {first("callback_tries_total", outcome=end) for end in ("pending", "delivered", "failed")} == {0}


async def test_no_number_has_a_gauge_beside_it(tmp_path: Path) -> None:
    """There are no `_created` samples, in either format."""
    async with InProcess(tmp_path) as service:
        for accept in ("*/*", PROMETHEUS_3):
            _, _, body = await service.get("/metrics", headers={"Accept": accept})
            assert b"_created" not in body


@pytest.mark.heavy
async def test_ends_are_counted_by_ending(tmp_path: Path) -> None:
    """Each job counts once, under its own ending and queue, whether it ran, was cancelled before, or was skipped."""
    async with InProcess(tmp_path, queues={"one": {"max_running": 1}}, jobs={"kill_grace": 0.1}) as service:
        failed = await service.submit("exit 3")
        await service.result(failed)
        await service.run("true", after=[failed])
        await service.run("kill -9 $$")
        await service.run(argv=["/nowhere"])
        await service.run("exit 1", retries={"max": 2})
        running = await service.submit("sleep 60", queue="one")
        queued = await service.submit("true", queue="one")
        await service.running(running)
        for job in (queued, running):
            await service.ask("POST", f"/api/jobs/{job}/cancel")
            await service.result(job)
        await wait_for_sample(service, "job_run_seconds_count", 1, queue="one")
        now = await scrape(service)
        assert now.endings() == {"exited": 2, "skipped": 1, "signalled": 1, "failed_to_start": 1}
        assert now.endings("one") == {"cancelled": 2}
        assert now("jobs", state="done") == 7
        assert now("job_run_seconds_count", queue="default") >= 5  # attempts, not jobs


@pytest.mark.heavy
async def test_jobs_are_counted_by_state_and_queue(tmp_path: Path) -> None:
    """Running, queued and waiting jobs are counted by state and queue, with the oldest's age and busy keepers."""
    async with InProcess(tmp_path, supervisor={"max_running": 1}) as service:
        running = await service.submit(f"until [ -e {tmp_path}/go ]; do sleep 0.01; done")
        await service.running(running)
        first, _ = [await service.submit("true") for _ in range(2)]
        await service.submit("true", after=[first])
        await until_older(service)
        now = await scrape(service)
        assert [now("jobs", state=state) for state in ("running", "queued", "waiting", "done")] == [1, 2, 1, 0]
        assert [now(f"queue_{name}", queue="default") for name in ("running", "depth", "waiting")] == [1, 2, 1]
        assert (now("max_running"), now("keepers", state="busy")) == (1, 1)
        assert now("keepers", state="idle") > 0
        (tmp_path / "go").touch()
        await wait_for_sample(service, "jobs", 4, state="done")
        await wait_for_sample(service, "keepers", 0, state="busy")
        now = await scrape(service)
        assert now("queue_oldest_seconds", queue="default") == 0
        assert now("job_wait_seconds_sum", queue="default") > 0.4  # two waited for longer than 0.2 s


async def until_older(service: Service) -> None:
    """Wait until the oldest queued job is 0.2 s old."""

    async def it_is() -> bool:
        return bool((await scrape(service))("queue_oldest_seconds", queue="default") > 0.2)

    await until(it_is)


@pytest.mark.heavy
async def test_a_wait_begins_when_the_job_could_start(tmp_path: Path) -> None:
    """Time that the job itself asked for (`start_at`, `after`, a retry's delay) is not counted."""
    async with InProcess(tmp_path) as service:
        later = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
        first = await service.submit("sleep 1")
        jobs = [
            await service.submit("true", start_at=later),
            await service.submit("true", after=[first]),
            await service.submit("exit 1", retries={"max": 1, "delay": 1}),
        ]
        for job in jobs:
            await service.result(job)
        await wait_for_sample(service, "job_wait_seconds_count", 5, queue="default")
        assert (await scrape(service))("job_wait_seconds_sum", queue="default") < 1


async def test_a_wait_lasts_over_a_restart_and_a_queue_out_of_config(tmp_path: Path) -> None:
    """A wait counts from the acceptance by an earlier server, in a queue that is no longer configured too."""
    async with InProcess(tmp_path, queues={"old": {}}) as service:
        await service.ask("POST", "/api/queues/pause")
        await wait_for_sample(service, "queue_paused", 1, queue="old")
        accepted = time.time()
        job = await service.submit("true", queue="old")
    async with InProcess(tmp_path) as service:
        now = await scrape(service)
        assert (now("queue_depth", queue="old"), now("queue_paused", queue="old")) == (1, 1)
        resumed = time.time()
        await service.ask("POST", "/api/queues/resume")
        await service.result(job)
        await wait_for_sample(service, "job_wait_seconds_count", 1, queue="old")
        now = await scrape(service)
        assert now("job_wait_seconds_sum", queue="old") >= resumed - accepted - 0.1
        assert now.endings("old") == {"exited": 1}
        assert now("queue_paused", queue="old") == 0


async def test_a_pause_of_one_queue_is_its_own(tmp_path: Path) -> None:
    """Only the paused queue is reported as paused."""
    async with InProcess(tmp_path, queues={"slow": {}}) as service:
        await service.ask("POST", "/api/queues/slow/pause")
        now = await scrape(service)
        assert (now("queue_paused", queue="slow"), now("queue_paused", queue="default")) == (1, 0)


async def test_output_and_history_have_sizes(tmp_path: Path) -> None:
    """Bytes stored and dropped are counted by stream, the history's size falls with a deletion, commits rise."""
    async with InProcess(tmp_path) as service:
        before = await scrape(service)
        job = await service.submit("printf 12345; printf 123 >&2")
        await service.result(job)
        await service.run("head -c 5000 /dev/zero", limits={"output_bytes": 1000})
        await wait_for_sample(service, "job_run_seconds_count", 2, queue="default")
        now = await scrape(service)
        stored, dropped = (now(f"output_{name}bytes_total", stream="stdout") for name in ("", "dropped_"))
        assert 5 < stored <= 1005
        assert dropped > 0
        assert now("output_bytes_total", stream="stderr") == 3
        assert now("kept_output_bytes") == stored + 3
        assert now("history_commits_total") >= before("history_commits_total") + 2
        paths = (tmp_path / name for name in ("history.db", "history.db-wal"))
        assert now("history_bytes") == sum(path.stat().st_size for path in paths)
        disk = os.statvfs(tmp_path)
        assert 0.5 < now("disk_free_bytes") / (disk.f_bavail * disk.f_frsize) < 2
        await service.ask("DELETE", f"/api/jobs/{job}")
        now = await scrape(service)
        assert (now("kept_output_bytes"), now("jobs", state="done")) == (stored - 5, 1)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/api/statuses/1/events", "events"),
        ("/api/statuses/1/output?follow=true", "output"),
        ("/api/statuses/events", "statuses"),
    ],
)
async def test_followers_are_counted_while_they_follow(tmp_path: Path, path: str, kind: str) -> None:
    """An open stream counts under its kind from its head on, and no longer once its reader has gone."""
    async with InProcess(tmp_path) as service:
        job = await service.submit("echo begun; sleep 60")
        await service.running(job)
        async with service.session.get(service.url + path) as response:
            assert response.status == 200
            await wait_for_sample(service, "followers", 1, kind=kind)
            now = await scrape(service)
            assert sum(now("followers", kind=each) for each in ("events", "output", "statuses")) == 1
            response.close()
        await wait_for_sample(service, "followers", 0, kind=kind)
        await service.ask("POST", f"/api/jobs/{job}/cancel")
        await service.result(job)


async def test_connections_and_problems_are_counted(tmp_path: Path) -> None:
    """A connection counts while it is open, and a problem counts under its code, invalid HTTP too."""
    async with InProcess(tmp_path) as service:
        port = int(service.url.rpartition(":")[2])
        now = await scrape(service)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await wait_for_sample(service, "connections", now("connections") + 1)
        writer.write(b"nonsense\r\n\r\n")
        await reader.read()
        writer.close()
        await wait_for_sample(service, "connections", now("connections"))
        await service.get("/api/jobs/77")
        after = await scrape(service)
        for problem, number in (("bad-request", 1), ("no-such-job", 1), ("wrong-host", 0)):
            assert after("problems_total", problem=problem) == number
        for reason in ("one-too-many", "slow-head", "large-head", "not-reading", "revoked"):
            assert after("connections_cut_total", reason=reason) == 0


@asynccontextmanager
async def receiver(answers: Any) -> AsyncIterator[str]:
    """Where results are sent: a server that answers with these statuses, one after the other."""

    async def receive(_: Any) -> Any:
        return web.Response(status=answers.pop(0))

    app = web.Application()
    app.router.add_post("/", receive)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.mark.heavy
async def test_tries_to_call_back_are_counted_by_outcome(tmp_path: Path) -> None:
    """A result that was taken is `delivered`, one that will be sent again `pending`."""
    async with receiver([200, 500]) as host:
        callbacks = {"hosts": [host], "secret": "whsec_" + "A" * 32}
        async with InProcess(tmp_path, callbacks=callbacks) as service:
            for outcome in ("delivered", "pending"):
                await service.run("true", notify={"url": f"http://{host}/"})
                await wait_for_sample(service, "callback_tries_total", 1, outcome=outcome)
            assert (await scrape(service))("callback_tries_total", outcome="failed") == 0


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (None, TEXT),
        ("*/*", TEXT),
        (BROWSER, TEXT),
        ("text/plain", TEXT),
        ("text/plain;version=0.0.4;q=1,*/*;q=0.1", TEXT),
        ("text/plain; version=nonsense", TEXT),
        ("application/openmetrics-text;q=0, */*", TEXT),
        ("application/openmetrics-text", OPENMETRICS),
        ('application/openmetrics-text; version=1.0.0"; x=y', OPENMETRICS),
        ("Application/OpenMetrics-Text; version=nonsense", OPENMETRICS),
        (PROMETHEUS_2, OPENMETRICS),
        (PROMETHEUS_3, OPENMETRICS),
        (NATIVE, OPENMETRICS),
    ],
)
async def test_scrapers_get_what_they_ask_for(measured: Any, accept: Any, kind: Any) -> None:
    """The type of the answer is the best that `Accept` names, and the answer is of that type, with all samples."""
    headers = {} if accept is None else {"Accept": accept}
    status, headers, body = await measured.get("/metrics", headers=headers, skip_auto_headers=["Accept"])
    assert (status, headers["Content-Type"], headers["Cache-Control"]) == (200, kind, "no-store")
    found = Scrape(body.decode(), parse_openmetrics if kind == OPENMETRICS else parse_text)
    assert set(found.samples) == set((await scrape(measured)).samples)


@pytest.fixture
async def measured(tmp_path: Path) -> AsyncIterator[Any]:
    """Yield a running service."""
    async with InProcess(tmp_path) as service:
        yield service


async def test_metrics_are_checked_like_other_routes(measured: Any) -> None:
    """Another media type is 406, another Host 421, another site 403, another verb 405, a parameter 400."""
    for status, verb, path, headers in (
        (406, "GET", "/metrics", {"Accept": "application/json"}),
        (421, "GET", "/metrics", {"Host": "example.com"}),
        (403, "GET", "/metrics", {"Sec-Fetch-Site": "cross-site"}),
        (405, "POST", "/metrics", {}),
        (400, "GET", "/metrics?name[]=shellrunner_jobs", {}),
        (200, "HEAD", "/metrics", {}),
    ):
        found, _, body = await measured.ask(verb, path, headers=headers)
        assert found == status, body


async def test_no_text_of_a_job_is_in_a_metric(measured: Any) -> None:
    """No text in a command, label, queue name or output of a job adds a line or a sample."""
    evil = '"} 1\nevil_total 1\n# TYPE evil counter\n\\'
    before = await scrape(measured)
    await measured.run(f"echo '{evil}'; exit 1", labels={"evil": evil}, env={"evil": evil})
    job = {"command": "true", "queue": "evil"}
    assert (await measured.ask("POST", "/api/jobs", json=job))[0] == 422
    await wait_for_sample(measured, "job_run_seconds_count", 1, queue="default")
    after = await scrape(measured)
    assert "evil" not in after.text
    assert set(after.samples) == set(before.samples)


@pytest.mark.heavy
async def test_scrapes_at_the_same_time_do_not_mix(measured: Any) -> None:
    """Twenty at once, in both formats, are each complete."""
    whole = set((await scrape(measured)).samples)

    async def one(number: Any) -> Any:
        accept = "*/*" if number % 2 else PROMETHEUS_3
        _, _, body = await measured.get("/metrics", headers={"Accept": accept})
        return set(Scrape(body.decode(), parse_text if number % 2 else parse_openmetrics).samples)

    assert all(found == whole for found in await asyncio.gather(*map(one, range(20))))


def test_observing_takes_few_calls() -> None:
    """An end is observed without looking up labels."""
    metrics = Metrics(["default"])
    claim = Claim(1, "token", 1, JobSpec(command="true"), 1000, ready=999)
    end = End(Ending.EXITED, 2000, exit_code=0, started=1000, duration=0.004)
    assert count_calls(lambda: metrics.observe(claim, end, Volume())) <= 25
