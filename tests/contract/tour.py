"""A tour of every route of a running service; each response is recorded as it was received."""

import asyncio
import http.client
import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit


@dataclass
class Exchange:
    """A request and its response."""

    verb: str
    target: str
    sent: dict[str, str]
    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes = field(repr=False)

    @property
    def path(self) -> Any:
        """The target without its query."""
        return self.target.partition("?")[0]

    def header(self, name: Any) -> Any:
        """Return the value of a response header, or None."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    @property
    def media_type(self) -> Any:
        """The type of the body, without parameters."""
        return (self.header("Content-Type") or "").partition(";")[0]

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    def __str__(self) -> str:
        return f"{self.verb} {self.target} {self.sent} -> {self.status}"


class Tour:
    """A client that records its exchanges."""

    def __init__(self, url: Any) -> None:
        self.exchanges: list[Exchange] = []
        self._authority = urlsplit(url).netloc

    async def ask(self, verb: Any, target: Any, body: Any = None, *, events: Any = None, **headers: Any) -> Any:
        """Send one request; `events` is how many to read of a stream that does not end."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if isinstance(body, dict):
            body, sent = json.dumps(body, ensure_ascii=False).encode(), {"Content-Type": "application/json", **sent}
        exchange = await asyncio.to_thread(self._exchange, verb, target, body, sent, events)
        self.exchanges.append(exchange)
        return exchange

    def _exchange(self, verb: Any, target: Any, body: Any, sent: Any, events: Any) -> Any:
        connection = http.client.HTTPConnection(self._authority, timeout=20)
        try:
            connection.request(verb, target, body, sent)
            response = connection.getresponse()
            content = response.read() if events is None else _read_events(response, events)
            headers = list(response.headers.items())
            return Exchange(verb, target, sent, response.status, response.reason, headers, content)
        finally:
            connection.close()


def _read_events(response: Any, wanted: Any) -> Any:
    content = b""
    while content.count(b"\n\n") < wanted:
        content += response.readline()
    return content


async def take(url: Any) -> Any:
    """Visit every route; return all exchanges."""
    tour = Tour(url)
    ask = tour.ask
    done = await _jobs(ask)
    await _lists(ask)
    await _results(ask, done)
    await _streams(ask, done)
    await _edits(ask, done)
    await _running(ask)
    await _queues(ask)
    await _service(ask)
    await _refused(ask, done)
    await _deleted(ask, done)
    return tour.exchanges


async def _submit(ask: Any, **job: Any) -> Any:
    return (await ask("POST", "/api/jobs", job)).json["job_id"]


async def _over(ask: Any, job_id: Any) -> None:
    """Wait for the job's end; only one long poll of this is recorded."""
    while (await ask("GET", f"/api/statuses/{job_id}", Prefer="wait=10")).status != 303:
        pass


async def _jobs(ask: Any) -> Any:
    job = {"command": "echo Привет, $NAME; echo ой >&2", "env": {"NAME": "мир"}, "labels": {"team": "a"}}
    done = await _submit(ask, **job)
    await _over(ask, done)
    waited = await ask("POST", "/api/jobs", {"argv": ["/bin/true"]}, Prefer="wait=10", Idempotency_Key='"tour"')
    assert waited.status == 200
    again = await ask("POST", "/api/jobs", {"argv": ["/bin/true"]}, Idempotency_Key='"tour"')
    assert again.status == 202
    assert (await ask("POST", "/api/jobs", {"argv": ["/bin/false"]}, Idempotency_Key='"tour"')).status == 422
    batch = {"jobs": [{"command": "true"}, {"argv": ["/bin/true"], "labels": {"team": "a"}}]}
    for _ in range(2):
        together = await ask("POST", "/api/jobs/batch", batch, Idempotency_Key='"batch"')
        assert together.status == 202
    for job in together.json["jobs"]:
        await _over(ask, job["job_id"])
    for target in (f"/api/jobs/{done}", "/api", "/api/openapi.json", "/"):
        first = await ask("GET", target)
        await ask("GET", target, If_None_Match=first.header("ETag"))
        await ask("GET", target, If_Match='"other"')
        await ask("HEAD", target)
    await ask("OPTIONS", "/api/jobs")
    page = await ask("GET", "/")
    script = page.body.decode().partition('<script type="module" src="')[2].partition('"')[0]
    for coding in ("gzip", "identity"):
        await ask("GET", script, Accept_Encoding=coding)
    return done


async def _lists(ask: Any) -> None:
    for name in ("jobs", "statuses", "results"):
        first = await ask("GET", f"/api/{name}?limit=1")
        await ask("GET", first.json["next"])
        await ask("GET", f"/api/{name}?fields=job_id&sort=-created&q=%D0%BF%D1%80%D0%B8%D0%B2")
        await ask("GET", f"/api/{name}?limit=1", If_None_Match=first.header("ETag"))


async def _results(ask: Any, done: Any) -> None:
    retried = await _submit(ask, command="echo again; exit 3", retries={"max": 1})
    await _over(ask, retried)
    attempt = f"/api/results/{retried}/attempts/1"
    for target in (f"/api/results/{done}", f"/api/results/{retried}", attempt):
        first = await ask("GET", target)
        await ask("GET", target, If_None_Match=first.header("ETag"))
        await ask("GET", target, If_Match='"other"')
    for target in (f"/api/results/{done}", attempt):
        for stream in ("stdout", "stderr"):
            raw = f"{target}/{stream}"
            whole = await ask("GET", f"{raw}?download")
            await ask("GET", raw, If_None_Match=whole.header("ETag"))
            await ask("GET", raw, Range="bytes=0-1", If_Range=whole.header("ETag"))
            await ask("GET", raw, Range="bytes=1000-")
            await ask("HEAD", raw)
    await ask("GET", f"/api/results/{retried}/attempts/9")


async def _streams(ask: Any, done: Any) -> None:
    events = f"/api/statuses/{done}/events"
    await ask("GET", events)
    await ask("GET", f"{events}?encoding=base64")
    await ask("GET", events, Last_Event_ID="end")
    await ask("HEAD", events)
    await ask("GET", f"/api/statuses/{done}/output")
    await ask("GET", f"/api/statuses/{done}/output?stream=stdout&tail=1&follow")
    found = await ask("GET", f"/api/statuses/{done}/output?find=%D0%BE%D0%B9&limit=1")
    assert found.json["matches"][0]["text"] == "ой"
    assert (await ask("GET", f"/api/statuses/{done}/output?find=x&tail=1")).status == 400
    assert (await ask("GET", f"/api/statuses/{done}/output/line?number=2")).json["lines"] == 2
    changes = await ask("GET", "/api/statuses/events?last_event_id=unknown", events=1)
    assert b"event: reset" in changes.body
    following = asyncio.create_task(ask("GET", "/api/statuses/events", events=3))
    while not following.done():
        await _over(ask, await _submit(ask, command="true"))


async def _edits(ask: Any, done: Any) -> None:
    """Submit the same again, held; change it until it runs."""
    assert (await ask("POST", f"/api/jobs/{done}/again", {})).status == 422
    same = {"env": {"NAME": "мир"}, "held": True, "name": "again"}
    job = (await ask("POST", f"/api/jobs/{done}/again", same)).json["job_id"]
    await ask("GET", f"/api/statuses/{job}")
    path, kind = f"/api/jobs/{job}", "application/merge-patch+json"
    tag = (await ask("GET", path)).header("ETag")
    assert (await ask("PATCH", path, {"labels": {"team": None}}, Content_Type=kind, If_Match=tag)).status == 200
    assert (await ask("PATCH", path, {"priority": 1}, Content_Type=kind, If_Match=tag)).status == 412
    assert (await ask("PATCH", path, {"command": "true"}, Content_Type=kind)).status == 422
    assert (await ask("PATCH", path, {"held": False}, Content_Type=kind)).status == 200
    await _over(ask, job)
    assert (await ask("PATCH", path, {"held": True}, Content_Type=kind)).status == 409


async def _running(ask: Any) -> None:
    job = await _submit(
        ask, command="trap 'exit 5' HUP; read x; while :; do sleep 0.05; done", stdin={"stream": True}
    )
    stdin, signal = f"/api/jobs/{job}/stdin", f"/api/jobs/{job}/signal"
    while (await ask("GET", f"/api/statuses/{job}")).json["state"] != "running":
        pass
    while (await ask("POST", stdin, b"line\n")).status != 204:
        pass
    assert (await ask("POST", f"{stdin}?offset=1", b"x")).status == 409
    await ask("POST", signal, {"signal": "SIGNONE"})
    assert (await ask("GET", f"/api/results/{job}")).status == 404
    assert (await ask("DELETE", f"/api/jobs/{job}")).status == 409
    assert (await ask("POST", signal, {"signal": "SIGHUP"})).status == 202
    await _over(ask, job)
    assert (await ask("POST", signal, {"signal": "SIGHUP"})).status == 409
    await _paused(ask)
    job = await _submit(ask, command="sleep 100", labels={"tour": "cancel"})
    assert (await ask("POST", "/api/jobs/cancel?label=tour:cancel")).status == 400
    assert (await ask("POST", "/api/jobs/cancel?label=tour:cancel&confirm=true")).status == 200
    await _over(ask, job)
    assert (await ask("POST", f"/api/jobs/{job}/cancel")).status == 409


async def _paused(ask: Any) -> None:
    """Look at a job on a terminal, change its size, stop it and have it go on."""
    path = "/api/jobs/" + str(job := await _submit(ask, command="while :; do sleep 0.05; done", tty=True))
    while (await ask("GET", f"/api/statuses/{job}")).json["pid"] is None:
        pass
    assert (await ask("GET", f"/api/statuses/{job}/usage")).json["processes"] > 0
    assert (await ask("GET", "/api/statuses/usage")).json["usages"][0]["job_id"] == job
    assert (await ask("POST", f"{path}/tty", {"rows": 40, "columns": 120})).status == 202
    assert (await ask("POST", f"{path}/tty", {"rows": 40})).status == 422
    for verb in ("pause", "resume", "cancel"):
        assert (await ask("POST", f"{path}/{verb}")).status == 202
    await _over(ask, job)
    for verb in ("pause", "resume"):
        assert (await ask("POST", f"{path}/{verb}")).status == 409
    assert (await ask("POST", f"{path}/tty", {"rows": 40, "columns": 120})).status == 409
    assert (await ask("GET", f"/api/statuses/{job}/usage")).status == 409


async def _queues(ask: Any) -> None:
    await ask("GET", "/api/queues")
    for where in ("/api/queues/default", "/api/queues"):
        await ask("POST", f"{where}/pause")
        await ask("POST", f"{where}/resume")
    assert (await ask("POST", "/api/queues/nowhere/pause")).status == 404
    for expected, limits in ((201, {"max_running": 1}), (200, {"max_running": 2, "max_queued": 9}), (422, {"x": 1})):
        assert (await ask("PUT", "/api/queues/tour", limits)).status == expected
    queue = await ask("GET", "/api/queues/tour")
    assert (await ask("GET", "/api/queues/tour", If_None_Match=queue.header("ETag"))).status == 304
    assert (await ask("PUT", "/api/queues/tour", {}, If_None_Match="*")).status == 412
    assert (await ask("DELETE", "/api/queues/default")).status == 409
    assert (await ask("DELETE", "/api/queues/tour")).status == 204
    assert (await ask("GET", "/api/queues/tour")).status == 404
    workers = (await ask("GET", "/api/workers")).json["workers"]
    (worker,) = (each for each in workers if each["runs_jobs"])
    path = f"/api/workers/{worker['host']}"
    await ask("GET", path)
    expected = 409 if len(workers) == 1 else 200
    assert {(await ask("POST", f"{path}/{verb}")).status for verb in ("drain", "resume")} == {expected}
    assert [(await ask("DELETE", f"{path}{query}")).status for query in ("", "?confirm=true")] == [409, 409]
    assert (await ask("GET", "/api/workers/nowhere")).status == 404
    await ask("GET", "/api/keepers")
    assert (await ask("DELETE", "/api/keepers/999")).status == 404


async def _service(ask: Any) -> None:
    for verb in ("POST", "DELETE"):
        assert (await ask(verb, "/api/session")).status == 204
    targets = ("/healthz", "/readyz", "/metrics", "/llms.txt", "/llms-full.txt", "/docs", "/docs/search.html?q=a")
    for target in targets:
        await ask("GET", target)
        await ask("HEAD", target)


async def _refused(ask: Any, done: Any) -> None:
    """Send requests that are rejected, one for each status."""
    jobs = "/api/jobs"
    for expected, verb, target, body, headers in (
        (400, "POST", jobs, b"{", {"Content-Type": "application/json"}),
        (400, "GET", f"{jobs}?colour=red", None, {}),
        (400, "DELETE", jobs, None, {}),
        (403, "GET", jobs, None, {"Origin": "https://example.org"}),
        (404, "GET", "/api/nothing", None, {}),
        (404, "GET", f"{jobs}/999999", None, {}),
        (405, "PUT", jobs, None, {}),
        (406, "GET", jobs, None, {"Accept": "text/html"}),
        (413, "POST", jobs, b" " * (1 << 20) + b"{}", {"Content-Type": "application/json"}),
        (413, "POST", f"{jobs}/batch", b" " * (8 << 20) + b"{}", {"Content-Type": "application/json"}),
        (422, "POST", f"{jobs}/batch", {"jobs": [{"command": "true"}, {"timeout": 0}]}, {}),
        (415, "POST", jobs, b"command=true", {"Content-Type": "application/x-www-form-urlencoded"}),
        (415, "POST", jobs, b"{}", {"Content-Type": "application/json", "Content-Encoding": "gzip"}),
        (417, "GET", jobs, None, {"Expect": "the-spanish-inquisition"}),
        (421, "GET", jobs, None, {"Host": "example.org"}),
        (422, "POST", jobs, {"comand": "true"}, {}),
        (412, "DELETE", f"{jobs}/{done}", None, {"If-Match": '"other"'}),
        (431, "GET", jobs, None, {"X-Long": "x" * 9000}),
    ):
        exchange = await ask(verb, target, body, **headers)
        assert exchange.status == expected, (str(exchange)[:300], exchange.body)


async def _deleted(ask: Any, done: Any) -> None:
    assert (await ask("DELETE", f"/api/results/{done}")).status == 204
    for target in (f"/api/results/{done}", f"/api/results/{done}/stdout", f"/api/statuses/{done}/output"):
        assert (await ask("GET", target)).status == 410
    assert (await ask("GET", f"/api/statuses/{done}")).status == 200
    assert (await ask("DELETE", f"/api/jobs/{done}")).status == 204
    assert (await ask("DELETE", "/api/jobs?exit_code=3&confirm=true")).status == 200
