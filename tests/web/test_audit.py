"""The audit log's lines: what they say of each request, and that they come before what is asked for is done."""

import asyncio
import hashlib
import json
import logging
import shlex
import time
from pathlib import Path
from typing import Any

import pytest

from shellrunner.log import AUDIT, format_line
from shellrunner.model import JobSpec
from shellrunner.web import ROUTES
from shellrunner.web.route import HOST, ID, KEEPER, QUEUE
from shellrunner.web.security import audit_details
from tests.support.site import Site, serving
from tests.support.waiting import until

PAYLOAD = "touch /tmp/payload"


def lines(site: Site, event: str) -> list[dict[str, Any]]:
    """Return the details of the lines of this event."""
    return [details for name, details in site.audit.lines if name == event]


def accepted(site: Site) -> dict[str, Any]:
    """Return what the one accepted request asked for; without who and when."""
    (line,) = lines(site, "accepted")
    return {name: value for name, value in line.items() if name not in ("request", "who", "from", "verb", "path")}


# Commands


@pytest.mark.parametrize(
    "command",
    [
        " " * 2_000 + PAYLOAD,
        PAYLOAD + " " * 2_000,
        " " * 2_000 + PAYLOAD + " " * 2_000,
        "\n\t " * 2_000 + PAYLOAD + " \n" * 2_000,
        "#" * 5_000 + "\n" + PAYLOAD + "\n" + "#" * 5_000,
        "\u2800" * 3_000 + PAYLOAD + "\u200b" * 3_000,
        "true #" + "x1" * 5_000 + "\n" + PAYLOAD,
    ],
    ids=["behind", "before", "between", "mixed", "comments", "invisible", "the end"],
)
def test_a_payload_behind_filler_leaves_a_trace(command: str) -> None:
    """Blanks, or one character over and over, are described and not repeated; the line stays short."""
    details = audit_details.excerpt("command", command, 1000)
    assert PAYLOAD in details["command_head"] + details["command_tail"]
    assert len(json.dumps(details, ensure_ascii=False)) < 1500


def test_an_excerpt_identifies_the_command() -> None:
    """It has the length and SHA-256 of the whole, and at most so many characters of its head and tail."""
    command = "".join(f"echo {number}; " for number in range(1000)) + "€"
    details = audit_details.excerpt("command", command, 100)
    content = command.encode()
    assert details["command_bytes"] == len(content)
    assert details["command_sha256"] == hashlib.sha256(content).hexdigest()
    assert (details["command_head"], details["command_tail"]) == (command[:50], command[-50:])
    assert audit_details.excerpt("command", command, None)["command"] == command
    assert audit_details.excerpt("command", "true", 4)["command"] == "true"
    assert audit_details.excerpt("command", "a\ud800" * 3, 5)["command_bytes"] == 12


def test_a_long_command_costs_little_time() -> None:
    """Filler that just does not count, all over the largest command, does not occupy the event loop."""
    command = (" " * 16 + "x" * 16) * 4_095
    begin = time.process_time()
    audit_details.excerpt("command", command, 1000)
    assert time.process_time() - begin < 0.1


async def test_everything_that_is_asked_for_is_in_the_line(site: Site) -> None:
    """A job's circumstances are named, its values are not."""
    first = await site.submit()
    site.audit.lines.clear()
    spec = {
        "argv": ["printf", "a b\x1b[31m\x9b\u202e"], "cwd": "/tmp", "env": {"LD_PRELOAD": "geheim", "B": "geheim"},
        "stdin": "geheim", "tty": True, "labels": {"team": "red"}, "priority": 5, "after": [first], "timeout": 9,
        "retries": {"max": 2}, "leave_children": True, "start_at": "2100-01-01T00:00:00Z",
    }  # fmt: skip
    answer = await site.ask("POST", "/api/jobs", json=spec)
    assert answer.status == 202
    command = shlex.join(["printf", "a b\x1b[31m\x9b\u202e"])
    assert accepted(site) == {
        "form": "argv", "command": command, "command_bytes": len(command.encode()),
        "command_sha256": hashlib.sha256(command.encode()).hexdigest(),
        "cwd": "/tmp", "env": ["LD_PRELOAD", "B"], "stdin_bytes": 6, "tty": True, "labels": ["team:red"],
        "priority": 5, "after": [first], "timeout": 9.0, "retries": 2, "leave_children": True,
        "start_at": "2100-01-01T00:00:00.000Z",
    }  # fmt: skip
    assert "geheim" not in str(site.audit.lines)
    (response,) = lines(site, "response")
    assert (response["request"], response["job"]) == (lines(site, "accepted")[0]["request"], answer.json["job_id"])


async def test_the_profile_is_named_that_confines_the_job(tmp_path: Path) -> None:
    """Also the one that its queue imposes."""
    async with serving(tmp_path, profiles={"closed": {}}, queues={"night": {"profile": "closed"}}) as site:
        for spec in ({"profile": "closed"}, {"queue": "night"}):
            assert (await site.ask("POST", "/api/jobs", json={"command": "true", **spec})).status == 202
        assert [line["profile"] for line in lines(site, "accepted")] == ["closed", "closed"]


async def test_an_ordinary_job_has_a_short_line(site: Site) -> None:
    """What is as by default is left out."""
    await site.submit(command="true")
    assert accepted(site).keys() == {"form", "command", "command_bytes", "command_sha256"}


async def test_the_host_of_a_callback_and_the_queue_are_named(tmp_path: Path) -> None:
    """Of a callback's URL, which may have a secret in its path, only the host is written."""
    callbacks = {"hosts": ["ci.example"], "secret": "whsec_" + "QUJD" * 10}
    async with serving(tmp_path, callbacks=callbacks, queues={"night": {}}) as site:
        spec = {"command": "true", "queue": "night", "notify": {"url": "https://ci.example/hook?key=geheim"}}
        assert (await site.ask("POST", "/api/jobs", json=spec)).status == 202
        assert accepted(site).items() >= {"queue": "night", "notify": "ci.example"}.items()
        assert "geheim" not in str(site.audit.lines)


def test_names_that_do_not_fit_are_counted_and_hashed() -> None:
    """Thousands of long names do not make a line that journald would cut, and cannot be denied afterwards."""
    names = [f"{number:04}{'x' * 300}" for number in range(4096)]
    details = audit_details.of_job(JobSpec(command="true", env=dict.fromkeys(names, "")), None, 1000)
    assert len(json.dumps(details)) < 20_000
    assert details["env_count"] == 4096
    assert details["env_sha256"] == hashlib.sha256("\0".join(sorted(names)).encode()).hexdigest()


@pytest.mark.parametrize("character", ["x", "\x1b", "\u202e", "\U000e0001", "\U0001f600"])
def test_no_job_makes_a_line_that_journald_would_cut(character: str) -> None:
    """Whatever everything in it consists of, a line of the audit log has less than 48 KiB, where journald cuts it."""
    spec = JobSpec.model_validate(
        {
            "command": f"{character}y" * 20_000,
            "cwd": "/" + character * 4_000,
            "env": {f"{number}{character * 500}": "" for number in range(4_000)},
            "labels": {f"{number:063}": character * 255 for number in range(32)},
            "after": [10**18 - number for number in range(1, 101)],
        }
    )
    details = {"who": "token:" + "x" * 63, "path": "/api/jobs", **audit_details.of_job(spec, "x" * 32, 1000)}
    assert len(format_line(logging.INFO, "accepted", AUDIT, details).encode()) < 48 * 1024 - 1000
    assert details["env_count"] == 4_000


# Other changes


async def test_every_change_says_what_it_asks_for(site: Site) -> None:
    """Job ids, signal, bytes of input, filters, queue: each is in the line of its request."""
    number = await site.done()
    queued = await site.submit()
    for verb, path, body, expected in (
        ("POST", f"/api/jobs/{queued}/signal", {"signal": "SIGHUP", "to": "tree"},
         {"job": queued, "signal": "SIGHUP", "to": "tree"}),
        ("POST", f"/api/jobs/{queued}/stdin?end&offset=3", b"geheim",
         {"job": queued, "stdin_bytes": 6, "offset": 3, "end": True}),
        ("POST", f"/api/jobs/{queued}/cancel", None, {"job": queued}),
        ("DELETE", f"/api/results/{number}", None, {"job": number}),
        ("DELETE", f"/api/jobs/{number}", None, {"job": number}),
        ("POST", "/api/queues/default/pause", None, {"queue": "default", "paused": True}),
        ("POST", "/api/queues/default/resume", None, {"queue": "default", "paused": False}),
        ("PUT", "/api/queues/mail", {"max_running": 2}, {"queue": "mail", "max_running": 2, "max_queued": None}),
        ("DELETE", "/api/queues/mail", None, {"queue": "mail"}),
        ("POST", "/api/queues/pause", None, {"queue": None, "paused": True}),
        ("POST", "/api/queues/resume", None, {"queue": None, "paused": False}),
        ("POST", "/api/workers/build-1/drain", None, {"host": "build-1", "draining": True}),
        ("POST", "/api/workers/build-1/resume", None, {"host": "build-1", "draining": False}),
        ("DELETE", "/api/workers/build-1?confirm=true", None, {"host": "build-1"}),
        ("POST", "/api/session", None, {}),
        ("DELETE", "/api/session", None, {}),
    ):  # fmt: skip
        site.audit.lines.clear()
        sent: dict[str, Any] = {"data": body} if isinstance(body, bytes) else {"json": body} if body else {}
        answer = await site.ask(verb, path, **sent)
        assert accepted(site) == expected, (verb, path, answer)
        (response,) = lines(site, "response")
        assert response["status"] == answer.status
        assert [name for name, _ in site.audit.lines] == ["accepted", "response"]
        assert "geheim" not in str(site.audit.lines)


async def test_a_deletion_of_many_names_its_filters_and_their_ids(site: Site) -> None:
    """Before it the filters, after it the ids as ranges; without `confirm` it is a rejection, with the filters."""
    for exit_code in (0, 0, 0, 3, 0):
        await site.done(labels={"code": str(exit_code)})
    site.audit.lines.clear()
    await site.ask("DELETE", "/api/jobs?label=code:0&q=true&created_after=2001-01-01T00:00:00Z")
    (rejected,) = lines(site, "rejected")
    query = {"label": "code:0", "q": "true", "created_after": "2001-01-01T00:00:00Z"}
    assert (rejected["why"], rejected["query"]) == ("unconfirmed", query)
    await site.ask("DELETE", "/api/jobs?label=code:0&confirm=true")
    assert accepted(site) == {"query": {"label": "code:0", "confirm": "true"}}
    (response,) = lines(site, "response")
    assert (response["deleted"], response["ids"]) == (4, "1-3,5")


def test_many_ids_are_ranges_up_to_a_limit() -> None:
    """Ids beyond the limit are counted."""
    assert audit_details.of_ids([7, 3, 1, 2, 12, 11]) == {"ids": "1-3,7,11-12"}
    assert audit_details.of_ids([]) == {"ids": ""}
    details = audit_details.of_ids(range(1, 4001, 2))
    assert (details["ids"].count(",") + 1, details["ids_omitted"]) == (500, 1500)


async def test_a_line_is_there_before_the_job(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the store is asked to accept a job, the line has been written."""
    seen: list[list[str]] = []
    add = type(site.store).add

    async def noticed(*args: Any) -> Any:
        seen.append([name for name, _ in site.audit.lines])
        return await add(*args)

    monkeypatch.setattr(type(site.store), "add", noticed)
    await site.submit()
    assert seen == [["accepted"]]


async def test_no_change_is_made_without_a_line(site: Site) -> None:
    """While no line can be written, no route that changes something answers with success, or changes anything."""
    job, held = await site.done(), await site.submit(held=True)
    bodies = {
        "/api/jobs": {"command": "true"},
        f"/api/jobs/{held}": {"priority": 1},
        "/api/jobs/batch": {"jobs": [{"command": "true"}]},
        f"/api/jobs/{job}/signal": {"signal": "SIGHUP"},
        f"/api/jobs/{job}/tty": {"rows": 24, "columns": 80},
        "/api/queues/default": {"max_running": 1},
    }

    async def state() -> list[Any]:
        return [(await site.get(path)).json for path in ("/api/jobs", "/api/results", "/api/queues")]

    before = await state()
    site.audit.full = True
    for route in ROUTES:
        if route.verb != "GET":
            path = (
                route.path.replace(ID, str(held if route.verb == "PATCH" else job))
                .replace(KEEPER, "1")
                .replace("{name}", "default")
                .replace(QUEUE, "default")
                .replace(HOST, "localhost")
            )
            query = "?confirm=true" if "confirm" in route.parameters.split() else ""
            sent = {"json": bodies[path]} if path in bodies and route.verb in ("POST", "PUT", "PATCH") else {}
            answer = await site.ask(route.verb, path + query, **sent)
            expected = "no-such-keeper" if "keeper" in path else "audit-unavailable"
            assert answer.json["type"] == f"/problems/{expected}", (route, answer)
    assert await state() == before


async def test_what_is_refused_by_the_handler_is_a_rejection(site: Site) -> None:
    """A job that is not valid was never accepted; one that the store refuses was, and its response says why."""
    await site.ask("POST", "/api/jobs", json={"command": "true", "queue": "nowhere"})
    await site.ask("POST", "/api/jobs", data=b"{", headers={"Content-Type": "application/json"})
    await site.ask("PUT", "/api/jobs", json={})
    assert [line["why"] for line in lines(site, "rejected")] == [
        "invalid-job",
        "malformed-json",
        "method-not-allowed",
    ]
    assert not lines(site, "accepted")
    assert (await site.ask("DELETE", "/api/jobs/99")).status == 404
    (response,) = lines(site, "response")
    assert (response["status"], response["why"]) == (404, "no-such-job")


async def test_a_client_that_does_not_wait_leaves_a_response_too(site: Site) -> None:
    """If the client of a waiting submission disconnects, the line of the response still has the job's id."""
    body = b'{"command":"true"}'
    head = f"POST /api/jobs HTTP/1.1\r\nHost: 127.0.0.1:{site.port}\r\nContent-Type: application/json\r\n"
    _, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(f"{head}Prefer: wait=50\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    await until(lambda: lines(site, "accepted"))
    writer.transport.abort()
    await until(lambda: lines(site, "response"))
    (response,) = lines(site, "response")
    assert response["job"] == 1


# Reading


async def test_reading_is_logged_if_that_is_configured(tmp_path: Path) -> None:
    """With `audit.reads` each read has a line with its parameters, and none is answered without."""
    async with serving(tmp_path, audit={"reads": True}) as site:
        job = await site.done(b"x")
        site.audit.lines.clear()
        assert (await site.get("/api/jobs?q=a%0ab&label=a:1&label=b:2")).status == 200
        assert (await site.get(f"/api/results/{job}/stdout")).status == 200
        assert (await site.get("/api/jobs/99")).status == 404
        assert (await site.get("/healthz")).status == 200
        found = [(event, line.get("path"), line.get("query"), line.get("why")) for event, line in site.audit.lines]
        assert found == [
            ("read", "/api/jobs", {"q": "a\nb", "label": ["a:1", "b:2"]}, None),
            ("read", f"/api/results/{job}/stdout", None, None),
            ("read", "/api/jobs/99", None, None),
            ("response", None, None, "no-such-job"),
        ]
        site.audit.full = True
        for path in ("/api/jobs", f"/api/statuses/{job}/events", f"/api/results/{job}/stdout", "/metrics"):
            assert (await site.get(path)).json["type"] == "/problems/audit-unavailable"


# Refused requests


async def test_refused_requests_beyond_the_limit_are_counted(tmp_path: Path) -> None:
    """So many are written; the rest is one line at the end, and a metric; accepted ones all have theirs."""
    async with serving(tmp_path, audit={"refusals_per_minute": 8}) as site:
        for _ in range(50):
            assert (await site.get("/api/jobs", headers={"Host": "evil.test"})).status == 421
        for _ in range(7):
            assert (await site.get("/api/jobs", headers={"Origin": "https://evil.test"})).status == 403
        for _ in range(20):
            await site.submit()
        written = lines(site, "rejected")
        assert len(written) == 2  # a client has a quarter
        assert len(lines(site, "accepted")) == 20
    (rest,) = lines(site, "lines suppressed")
    assert rest == {"by": "127.0.0.1", "lines": 55, "why": {"wrong-host": 48, "cross-site": 7}}


async def test_a_cancellation_of_many_names_its_filters_and_their_ids(site: Site) -> None:
    """Before it the filters, after it the ids; without `confirm` it is a rejection, with the filters."""
    for _ in range(3):
        await site.submit(labels={"team": "ops"})
    site.audit.lines.clear()
    await site.ask("POST", "/api/jobs/cancel?label=team:ops")
    (rejected,) = lines(site, "rejected")
    assert (rejected["why"], rejected["query"]) == ("unconfirmed", {"label": "team:ops"})
    await site.ask("POST", "/api/jobs/cancel?label=team:ops&confirm=true")
    assert accepted(site) == {"query": {"label": "team:ops", "confirm": "true"}}
    (response,) = lines(site, "response")
    assert (response["cancelled"], response["ids"]) == (3, "1-3")
