"""`Prefer: wait`: on a new job and on a status, how it is parsed, and what ends the wait."""

import asyncio
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shellrunner.clock import now_ms
from shellrunner.model import End, Ending
from shellrunner.web.handlers import prefer
from shellrunner.web.http.streaming import STREAMS
from tests.support.site import Answer, Site, serving
from tests.support.waiting import until


@pytest.mark.parametrize(
    ("lines", "seconds"),
    [
        (["wait=5"], 5),
        (["WAIT=5"], 5),
        (["wait = 5"], 5),
        (['wait="5"'], 5),
        (["wait=5; foo=bar"], 5),
        (['wait=5;foo="a,wait=7"; bar'], 5),
        (["respond-async, wait=5"], 5),
        (["respond-async", "wait=5"], 5),
        (['foo="a, wait=3; \\", wait=4", wait=5'], 5),
        (["wait=5, wait=6"], 5),
        (["wait=5", "wait=6"], 5),
        (["wait=005"], 5),
        ([", ,wait=5,"], 5),
        (["wait=0"], 0),
        (["wait=60"], 55),
        (["wait=61"], 55),
        (["wait=" + "9" * 8000], 55),
        (["wait"], None),
        (["wait="], None),
        (['wait=""'], None),
        (["wait=-1"], None),
        (["wait=1.5"], None),
        (["wait=5s"], None),
        (["wait=5 6"], None),
        (["wait=٣"], None),
        (["wait=x, wait=5"], None),
        (["waits=5"], None),
        (["await=5"], None),
        (["respond-async; wait=5"], None),
        (['foo="wait=5'], None),
        (['foo="\\', "wait=5"], 5),
        ([""], None),
        ([], None),
    ],
)
def test_reading(lines: list[str], seconds: int | None) -> None:
    """The first `wait` of all preferences counts, in whole seconds up to 55; an invalid one is ignored."""
    assert prefer.parse_wait(lines) == seconds


_TOKEN = st.text("abcxyzWAIT-_.!*0123456789", min_size=1, max_size=6)
_QUOTED = st.text(' ,;="\\ab5', max_size=8).map(
    lambda text: '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
)
_BLANKS = st.sampled_from(["", " ", "\t", "  "])
_OTHER = st.tuples(_TOKEN.filter(lambda name: name.lower() != "wait"), _BLANKS, _BLANKS, _TOKEN | _QUOTED).map(
    lambda parts: f"{parts[0]}{parts[1]}={parts[2]}{parts[3]}"
)
_PARAMETERS = st.lists(_TOKEN | _OTHER, max_size=2).map(lambda some: "".join(f" ; {each}" for each in some))


@pytest.mark.heavy
@given(
    before=st.lists(st.tuples(_OTHER, _PARAMETERS).map("".join), max_size=3),
    after=st.lists(st.tuples(_OTHER, _PARAMETERS).map("".join), max_size=3),
    parameters=_PARAMETERS,
    wanted=st.integers(0, 10**6),
    quoted=st.booleans(),
)
def test_wait_is_found_among_others(
    before: list[str], after: list[str], parameters: str, wanted: int, quoted: bool
) -> None:
    """`wait` is found among any other preferences and parameters that the grammar allows."""
    wait = f'wait="{wanted}"' if quoted else f"wait={wanted}"
    preferences = [*before, wait + parameters, *after]
    assert prefer.parse_wait([", ".join(preferences)]) == min(wanted, 55)
    assert prefer.parse_wait(preferences) == min(wanted, 55)


@pytest.mark.heavy
@given(st.lists(st.text(max_size=40) | st.text('wait=5",;\\ ', max_size=40)))
def test_no_header_is_too_odd(lines: list[str]) -> None:
    """Every header is parsed without an error."""
    assert prefer.parse_wait(lines) in {None, *range(61)}


def preferring(wait: str) -> dict[str, str]:
    return {"Prefer": wait}


async def post(site: Site, wait: str) -> Answer:
    return await site.ask("POST", "/api/jobs", json={"command": "true"}, headers=preferring(wait))


async def waited_for(site: Site, number: int = 1) -> None:
    """Wait until this number of requests wait."""
    await until(lambda: len(site.app[STREAMS]._timeouts) == number)


async def test_post_in_time(site: Site) -> None:
    """A job that ends in time is 200 with the result as GET returns it, its path, and the applied preference."""
    runner = site.simulated_runner()
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        answer = tasks.create_task(post(site, "respond-async, wait=100"))
        await runner.claim()
        runner.write("привет\n".encode())
        await waited_for(site)
        await runner.finish()
    got = answer.result()
    assert got.status == 200
    assert got.headers["Content-Location"] == "/api/results/1"
    assert got.headers["Location"] == "/api/statuses/1"
    assert got.headers["Preference-Applied"] == "wait=55"
    assert got.headers["Cache-Control"] == "no-store"
    assert got.body == (await site.get("/api/results/1")).body


async def test_post_not_in_time(site: Site) -> None:
    """A job that does not end in time is the usual 202 with the applied preference."""
    async with asyncio.timeout(5):
        for wait in (0, 1):
            got = await post(site, f"wait={wait}")
            assert got.status == 202
            assert got.headers["Location"] == f"/api/statuses/{wait + 1}"
            assert got.headers["Preference-Applied"] == f"wait={wait}"
            assert "Content-Location" not in got.headers
            assert got.json == (await site.get(f"/api/jobs/{wait + 1}")).json


async def test_post_without(site: Site) -> None:
    """Without a valid `wait` the response does not wait, and no preference is applied."""
    for wait in ("", "respond-async", "wait=soon"):
        got = await post(site, wait)
        assert got.status == 202
        assert "Preference-Applied" not in got.headers


async def test_a_refused_post_does_not_wait(site: Site) -> None:
    """An invalid job is rejected at once."""
    async with asyncio.timeout(2):
        answer = await site.ask("POST", "/api/jobs", json={}, headers=preferring("wait=60"))
    assert answer.status == 422


async def test_large_result(site: Site) -> None:
    """A large result is complete with `Prefer`, too."""
    runner = site.simulated_runner()
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        answer = tasks.create_task(post(site, "wait=60"))
        await runner.claim()
        runner.write(b"x" * 500_000)
        await runner.finish()
    assert (answer.result().status, answer.result().json["stdout"]) == (200, "x" * 500_000)


async def test_status_in_time(site: Site) -> None:
    """A status with `wait` is 303 as soon as the job is done, also for HEAD."""
    job_id = await site.submit()
    runner = site.simulated_runner()
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        path = f"/api/statuses/{job_id}"
        answers = [tasks.create_task(site.ask(verb, path, headers=preferring("wait=60"))) for verb in ("GET", "HEAD")]
        await waited_for(site, 2)
        await runner.claim()
        runner.write(b"x")
        await runner.finish()
    for answer in (task.result() for task in answers):
        assert (answer.status, answer.headers["Location"]) == (303, f"/api/results/{job_id}")
        assert answer.headers["Preference-Applied"] == "wait=55"
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Vary"] == "Prefer"
    assert answers[0].result().json["done"] is True
    assert answers[1].result().body == b""


async def test_status_not_in_time(site: Site) -> None:
    """A status whose job is not done in time is 200 with Retry-After when the time is over."""
    path = f"/api/statuses/{await site.submit()}"
    for wait in (0, 1):
        async with asyncio.timeout(wait + 2):
            got = await site.get(path, headers=preferring(f"wait={wait}"))
        assert (got.status, got.json["done"], got.headers["Retry-After"]) == (200, False, "1")
        assert (got.headers["Cache-Control"], got.headers["Vary"]) == ("no-store", "Prefer")
        assert got.headers["Preference-Applied"] == f"wait={wait}"


async def test_status_without(site: Site) -> None:
    """Every response of this route varies by `Prefer`, also 303 and 304."""
    job_id = await site.submit()
    path = f"/api/statuses/{job_id}"
    first = await site.get(path)
    assert (first.status, first.headers["Vary"]) == (200, "Prefer")
    assert first.headers["Cache-Control"] == "private, no-cache"
    unchanged = await site.get(path, headers={"If-None-Match": first.headers["ETag"]})
    assert (unchanged.status, unchanged.headers["Vary"]) == (304, "Prefer")
    await site.store.request_cancel(job_id)
    done = await site.get(path)
    assert (done.status, done.headers["Vary"], done.headers["Cache-Control"]) == (303, "Prefer", "private, no-cache")


async def test_long_poll_for_a_change(site: Site) -> None:
    """A client that has the current status waits too, and gets 304 if it is still the same."""
    path = f"/api/statuses/{await site.submit()}"
    tag = (await site.get(path)).headers["ETag"]
    got = await site.get(path, headers={"If-None-Match": tag, **preferring("wait=1")})
    assert (got.status, got.headers["Cache-Control"], got.headers["Preference-Applied"]) == (
        304,
        "no-store",
        "wait=1",
    )


async def test_cancelled_while_waited_for(site: Site) -> None:
    """A cancelled job is done: 200 for its POST, 303 for its status."""
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        posted = tasks.create_task(post(site, "wait=60"))
        await waited_for(site)
        polled = tasks.create_task(site.get("/api/statuses/1", headers=preferring("wait=60")))
        await waited_for(site, 2)
        await site.ask("POST", "/api/jobs/1/cancel")
    assert (posted.result().status, posted.result().json["ending"]) == (200, "cancelled")
    assert polled.result().status == 303


async def test_deleted_while_waited_for(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that is deleted before its end was noticed is 202 for its POST and 404 for its status."""
    job, looks = site.store.job, count()

    async def too_late(job_id: int) -> object:
        if next(looks) >= 2:  # each has looked once: from now on only after the deletion
            await deleted.wait()
        return await job(job_id)

    deleted = asyncio.Event()
    monkeypatch.setattr(site.store, "job", too_late)
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        posted = tasks.create_task(post(site, "wait=60"))
        await waited_for(site)
        polled = tasks.create_task(site.get("/api/statuses/1", headers=preferring("wait=60")))
        await until(lambda: next(looks) > 2)
        await site.store.request_cancel(1)
        await site.store.delete_job(1)
        deleted.set()
    assert (posted.result().status, posted.result().json["job_id"]) == (202, 1)
    assert polled.result().status == 404


async def test_result_deleted_before_it_is_sent(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job whose result is deleted as soon as it is done is 202 with the job."""
    wait_until_done = prefer.wait_until_done

    async def deleting(*args: object) -> object:
        done = await wait_until_done(*args)  # type: ignore[arg-type]
        await site.store.delete_result(1)
        return done

    monkeypatch.setattr(prefer, "wait_until_done", deleting)
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        posted = tasks.create_task(post(site, "wait=60"))
        await waited_for(site)
        runner = site.simulated_runner()
        await runner.claim()
        runner.write(b"output")
        await runner.finish()
    assert (posted.result().status, posted.result().json["done"]) == (202, True)


async def test_shutdown_ends_the_wait(tmp_path: Path) -> None:
    """At shutdown waiting requests are answered at once: 202 and 200."""
    async with serving(tmp_path) as site, asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        posted = tasks.create_task(post(site, "wait=60"))
        await waited_for(site)
        polled = tasks.create_task(site.get("/api/statuses/1", headers=preferring("wait=60")))
        await waited_for(site, 2)
        site.app[STREAMS].close()
        assert (await posted).status == 202
        assert (await polled).status == 200


@pytest.mark.parametrize("verb", ["GET", "POST"])
async def test_gone_client_ends_the_wait(site: Site, verb: str) -> None:
    """A wait ends at once when its client disconnects, and the job continues."""
    job_id = await site.submit()
    body = '{"command": "true"}'
    target = f"/api/statuses/{job_id} HTTP/1.1" if verb == "GET" else "/api/jobs HTTP/1.1"
    _, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(
        f"{verb} {target}\r\nHost: localhost:{site.port}\r\nPrefer: wait=60\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    )
    await waited_for(site)
    (connection,) = site.connections
    handler = connection._task_handler
    assert handler is not None
    writer.close()
    await until(handler.done, 2)
    assert not site.app[STREAMS]._timeouts
    runner = site.simulated_runner()
    await runner.claim()
    await runner.finish()
    assert (await site.get(f"/api/statuses/{job_id}")).status == 303


async def test_waiting_looks_only_when_something_happened(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait reads its job once at first and once for each change, never in between."""
    job, looked = site.store.job, 0

    async def counted(job_id: int) -> object:
        nonlocal looked
        looked += 1
        return await job(job_id)

    monkeypatch.setattr(site.store, "job", counted)
    runner = site.simulated_runner()
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        answer = tasks.create_task(post(site, "wait=60"))
        await runner.claim()
        await waited_for(site)
        await asyncio.sleep(0.5)  # a time in which nothing happens is what this is about
        assert looked <= 3  # at first, for the claim, and for the first look at the output
        await runner.finish(End(Ending.EXITED, now_ms(), 3, started=now_ms(), duration=0.5))
    assert answer.result().json["exit_code"] == 3


@pytest.mark.parametrize("line", ['"' + '\\"' * 1000 + "\\", '"' + '"\\' * 1000, 'wait="' + '\\"' * 1000, '"a' * 999])
def test_a_quote_that_never_ends_is_one_preference(line: str) -> None:
    """It is read once: if the search began again behind each quote, the time would be quadratic in the length."""
    assert [len(found) for found in prefer._PREFERENCE.findall(line)] == [len(line)]
    assert prefer.parse_wait([line]) is None


def test_blanks_within_a_value_are_read_once() -> None:
    """A preference is split at its first `=` and `;`, so that nothing tries the blanks behind them one by one."""
    assert prefer._split("wait=a" + " " * 9 + "b;x=1") == ("wait", "a" + " " * 9 + "b")
    assert prefer._split(" \t wait \t=\t 5 \t; wait=6") == ("wait", "5")
    assert prefer._split("wait") == ("wait", "")
