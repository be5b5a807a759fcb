"""Completion callbacks: signed, tried again, never lost; real receivers on loopback, and a real service."""

import asyncio
import contextlib
import hashlib
import json
import shutil
import socket
import ssl
import subprocess
import time
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import web
from pydantic import ValidationError

from shellrunner import results
from shellrunner.callbacks import CallbackSender, RetrySchedule, sender, webhook_headers
from shellrunner.config import CallbackSettings, load
from shellrunner.errors import ConfigError
from shellrunner.model import Callback, Delivery, End, Ending, JobSpec
from shellrunner.store import DueCallback
from shellrunner.store.sqlite.store import SqliteStore
from shellrunner.wire import json_codec
from tests.support.histories import NOTHING, SPEC, ended, opened
from tests.support.selected_service import new_service
from tests.support.service import InProcess, Service
from tests.support.simulated_keeper import SimulatedKeeper
from tests.support.waiting import until

SAMPLE = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # of the standard's own example
SECRET = f"whsec_{'c2VjcmV0' * 5}"
QUICK_RETRIES = RetrySchedule(timeout=5.0, first_delay=0.01, max_delay=0.05)
NO_RETRIES = RetrySchedule(timeout=5.0, retry_for=-1.0)  # no second try


class Receiver:
    """A receiver of callbacks: records each request and answers it with the next of `answers`, then the last."""

    def __init__(self, *answers: Any, port: int = 0, tls: Any = None) -> None:
        """Answer with these in turn: each is a status, or a handler."""
        self.came: list[Any] = []
        self._answers = list(answers) or [200]
        self._server = web.Server(self._take)
        self._tls = tls
        self.port = port

    async def __aenter__(self) -> Any:
        """Listen."""
        self._runner = web.ServerRunner(self._server, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self._tls).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop listening."""
        await self._runner.cleanup()

    @property
    def host(self) -> str:
        """Return the host, as the configuration names it."""
        return f"127.0.0.1:{self.port}"

    def url(self, path: str = "/") -> str:
        """Return the URL of its callbacks."""
        return f"http://{self.host}{path}"

    async def _take(self, request: Any) -> Any:
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        self.came.append(Call(request, await request.read()))
        return await answer(request) if callable(answer) else web.Response(status=answer)


class Call:
    """One received request."""

    def __init__(self, request: Any, content: Any) -> None:
        """Keep the parts that tests compare."""
        self.headers, self.path, self.verb, self.content = request.headers, request.path_qs, request.method, content

    @property
    def result(self) -> Any:
        """The body."""
        return json.loads(self.content)

    @property
    def is_genuine(self) -> bool:
        """Whether the signature is HMAC-SHA256 as RFC 2104 defines it, made with our secret."""
        key = b64decode(SECRET.removeprefix("whsec_")).ljust(64, b"\0")
        message = f"{self.headers['webhook-id']}.{self.headers['webhook-timestamp']}.".encode() + self.content
        inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in key) + message).digest()
        outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in key) + inner).digest()
        return bool(self.headers["webhook-signature"] == f"v1,{b64encode(outer).decode()}")


@contextlib.asynccontextmanager
async def calling(
    store: SqliteStore, *hosts: Any, schedule: Any = QUICK_RETRIES, networks: Any = (), resolver: Any = None
) -> AsyncIterator[None]:
    """Run the sender of due callbacks for these hosts."""
    callbacks = CallbackSettings(hosts=list(hosts), networks=list(networks), secret=SECRET)
    task = asyncio.create_task(CallbackSender(store, callbacks, schedule, resolver).run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def asked(url: Any, **more: Any) -> Any:
    """Return a job whose result is to be sent there."""
    return JobSpec.model_validate({"command": "true", "notify": {"url": url}, **more})


async def done(store: SqliteStore, url: Any, end: Any = None, **more: Any) -> Any:
    """End such a job, and return its id."""
    await store.add(asked(url, **more))
    claim = await store.claim(1, "t")
    assert await store.finish(claim.job_id, "t", end or ended(), *NOTHING)
    return claim.job_id


async def settled(store: SqliteStore, job_id: Any) -> Any:
    """Wait until the callback is delivered or has failed for good."""

    async def decided() -> Any:
        callback = (await store.job(job_id)).callback
        return callback if callback and callback.state is not Delivery.PENDING else None

    return await until(decided, what=f"the callback of job {job_id} is delivered or has failed")


async def tried(store: SqliteStore, job_id: Any, tries: Any) -> Any:
    """Wait for so many tries."""

    async def enough() -> Any:
        callback = (await store.job(job_id)).callback
        return callback if callback and callback.tries >= tries else None

    return await until(enough, what=f"{tries} tries for job {job_id}")


def test_the_signature_is_that_of_the_standards_own_example() -> None:
    """The known secret, id, time and body have the known signature."""
    made = webhook_headers.webhook_headers(
        "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}', SAMPLE
    )
    assert made["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


async def test_a_result_is_sent_signed_as_lists_show_it(tmp_path: Path) -> None:
    """One POST: the document of the lists, in UTF-8, with a signature that holds, an id and the try's time."""
    async with opened(tmp_path) as store, Receiver() as receiver, calling(store, receiver.host):
        url = receiver.url("/hook?token=%2Fa%3D&x=1")
        job = (await store.add(asked(url, command="echo привет"))).id
        claim = await store.claim(1, "t")
        with SimulatedKeeper(tmp_path) as keeper:
            recorder = keeper.begin(job, "t")
            recorder.store(0, "привет, мир\n".encode())
            recorder.store(1, "ж".encode() * 5000)
            assert await store.finish(job, claim.token, ended(3), *keeper.record(job, "t"))
        assert await settled(store, job) == Callback(Delivery.DELIVERED, 1)
        (call,) = receiver.came
        assert (call.verb, call.path) == ("POST", "/hook?token=%2Fa%3D&x=1")
        assert call.is_genuine
        assert call.headers["webhook-id"] == f"{store.history_id}-{job}"
        assert abs(int(call.headers["webhook-timestamp"]) - time.time()) < 30
        assert call.headers["Content-Type"] == "application/json; charset=utf-8"
        assert call.headers["User-Agent"] == "shellrunner"
        result = call.result
        assert (result["stdout"], result["exit_code"], result["command"]) == ("привет, мир\n", 3, "echo привет")
        assert "привет, мир".encode() in call.content
        assert (result["truncated"], result["stderr_bytes"]) == (True, 10_000)
        assert len(result["stderr"].encode()) < 5000
        listed = await results.document(store, results.last_attempt(await store.job(job)), results.MAX_LISTED_BYTES)
        assert call.content == json_codec.dumps(listed)


async def test_a_failed_try_is_repeated(tmp_path: Path) -> None:
    """After 500, a redirect and 404 the fourth try succeeds: one id, one body, each signed, the error removed."""
    async with opened(tmp_path) as store, Receiver(500, _elsewhere, 404, 204) as receiver:
        host = f"localhost:{receiver.port}"  # a name, since cookies of an address are kept by nobody
        async with calling(store, host):
            job = await done(store, f"http://{host}/")
            assert await settled(store, job) == Callback(Delivery.DELIVERED, 4)
        assert len(receiver.came) == 4
        assert all(call.is_genuine and call.path == "/" for call in receiver.came)
        assert len({(call.headers["webhook-id"], call.content) for call in receiver.came}) == 1
        assert not any("Cookie" in call.headers for call in receiver.came)


async def _elsewhere(request: Any) -> Any:
    headers = {"Location": "/elsewhere", "Set-Cookie": "a=b"}
    return web.Response(status=308, headers=headers)


@pytest.mark.parametrize(
    ("answer", "words"),
    [(500, "answered 500"), (_elsewhere, "answered 308, a redirect, which is not followed"), (399, "answered 399")],
)
async def test_a_final_failure_says_why(tmp_path: Path, answer: Any, words: str) -> None:
    """When no time is left after a try, the callback has failed for good, with the reason."""
    async with opened(tmp_path) as store, Receiver(answer) as receiver:
        async with calling(store, receiver.host, schedule=NO_RETRIES):
            callback = await settled(store, await done(store, receiver.url("/?token=geheim")))
        assert (callback.state, callback.tries) == (Delivery.FAILED, 1)
        assert callback.error.startswith(f"{receiver.host} {words}")
        assert len(receiver.came) == 1
        assert await store.next_callback_at() is None


def test_the_schedule_doubles_to_an_hour_and_ends_after_a_day() -> None:
    """Tries follow 5 s after the first, then twice as long each, at most an hour, and none begins after 24 h."""
    job = cast("Any", None)
    schedule, since, moment = RetrySchedule(), 1_000, 1_000
    pauses: list[float] = []
    while (following := schedule.retry_at(DueCallback(job, len(pauses), since), moment)) is not None:
        pauses.append((following - moment) / 1000)
        moment = following
    assert pauses[:11] == [5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600]
    assert set(pauses[11:]) == {3600}
    assert 86_400 - 3600 < (moment - since) / 1000 <= 86_400
    assert schedule.retry_at(DueCallback(job, 10_000, since), since) == since + 3_600_000


def test_c5_a_clock_that_is_set_forward_gives_up_no_callback() -> None:
    """C5: the day counts the time that was seen to pass: 60 days ahead there is another try, after the same delay."""
    due, ahead = DueCallback(cast("Any", None), 3, 1_000), 60 * 86_400_000
    assert RetrySchedule().retry_at(due, ahead) is None
    assert RetrySchedule().retry_at(due, ahead, 61_000) == ahead + 40_000


async def test_the_day_begins_when_the_end_is_recorded(tmp_path: Path) -> None:
    """A job whose end was recorded late, since the service was down, is retried as long as any other."""
    async with opened(tmp_path) as store, Receiver(500, 500, 200) as receiver, calling(store, receiver.host):
        job = await done(store, receiver.url(), End(Ending.EXITED, completed=1_000, exit_code=0))
        assert await settled(store, job) == Callback(Delivery.DELIVERED, 3)


@pytest.mark.heavy
async def test_a_slow_receiver_holds_up_nobody_else(tmp_path: Path) -> None:
    """While many results are due at a host that hangs, another host gets its own at once; the others time out."""
    hangs = asyncio.Event()

    async def hang(request: Any) -> None:
        await hangs.wait()

    async with opened(tmp_path) as store, Receiver(hang) as slow, Receiver() as quick:
        stuck = [await done(store, slow.url()) for _ in range(30)]
        async with calling(store, slow.host, quick.host, schedule=RetrySchedule(timeout=60.0)):
            await until(lambda: len(slow.came) == sender.MAX_TRIES_PER_HOST)
            for _ in range(5):
                assert (await settled(store, await done(store, quick.url()))).state is Delivery.DELIVERED
            assert len(slow.came) == sender.MAX_TRIES_PER_HOST
        async with calling(store, slow.host, schedule=RetrySchedule(timeout=0.05, retry_for=-1.0)):
            for job in stuck:
                callback = await settled(store, job)
                assert callback.error == f"{slow.host} did not answer within 0.05 s"
        hangs.set()


async def test_a_job_has_one_try_at_a_time(tmp_path: Path) -> None:
    """A job whose try is under way is not tried a second time at once."""
    at_once, most = 0, 0

    async def count(request: Any) -> Any:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.02)
        at_once -= 1
        return web.Response(status=503)

    async with opened(tmp_path) as store, Receiver(count) as receiver, calling(store, receiver.host):
        job = await done(store, receiver.url())
        for _ in range(20):
            await done(store, "http://127.0.0.1:1/")  # rings
        await tried(store, job, 5)
    assert most == 1


async def test_a_receiver_that_is_down_gets_it_when_it_is_up(tmp_path: Path) -> None:
    """A refused connection is retried until it succeeds, and until then the error says that it was refused."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    async with opened(tmp_path) as store, calling(store, f"127.0.0.1:{port}"):
        job = await done(store, f"http://127.0.0.1:{port}/?key=geheim")
        callback = await tried(store, job, 2)
        assert callback.error == f"cannot connect to 127.0.0.1:{port}: Connection refused"
        async with Receiver(port=port) as receiver:
            assert (await settled(store, job)).state is Delivery.DELIVERED
            assert len(receiver.came) == 1


async def _nonsense(reader: Any, writer: Any) -> None:
    writer.write(b"220 mail.example.org ready\r\n\r\n")
    await writer.drain()
    writer.close()


async def _hang_up(reader: Any, writer: Any) -> None:
    await reader.readline()
    writer.close()


@pytest.mark.parametrize(
    ("server", "url", "words"),
    [
        (_nonsense, "http://127.0.0.1:{port}/", "sent a response that is not valid HTTP"),
        (_hang_up, "http://127.0.0.1:{port}/", "closed the connection without an answer"),
        (_nonsense, "https://127.0.0.1:{port}/", "failed the TLS handshake"),
        (_hang_up, "http://a..b:{port}/", "is not a valid host name"),
        (_hang_up, f"http://{'a' * 64}.example/", "is not a valid host name"),
        (_hang_up, "HTTP://LOCALHOST:{port}", "closed the connection without an answer"),
    ],
)
async def test_whatever_goes_wrong_the_error_is_plain(tmp_path: Path, server: Any, url: str, words: str) -> None:
    """No answer, a broken one, no TLS, no such host: each fails the try with an error text, and nothing else."""
    listening = await asyncio.start_server(server, "127.0.0.1", 0)
    async with listening, opened(tmp_path) as store:
        spec = asked(url.format(port=listening.sockets[0].getsockname()[1]))
        host = spec.notify.host
        async with calling(store, host, schedule=NO_RETRIES):
            job = await done(store, spec.notify.url)
            assert await settled(store, job) == Callback(Delivery.FAILED, 1, f"{host} {words}")


async def test_a_name_that_nobody_has_is_not_found(tmp_path: Path) -> None:
    """A host that no name server knows fails the try (or the name server does not answer in time)."""
    async with opened(tmp_path) as store, calling(store, "nowhere.invalid", schedule=NO_RETRIES):
        callback = await settled(store, await done(store, "http://nowhere.invalid/?key=geheim"))
        assert callback.error in ("nowhere.invalid was not found", "nowhere.invalid did not answer within 5 s")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
async def test_a_self_signed_certificate_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A receiver with a self-signed certificate gets nothing, unless the system trusts that."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate]
    subprocess.run([*make, *map(str, names)], check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    async with opened(tmp_path) as store, Receiver(tls=tls) as receiver:
        host = f"localhost:{receiver.port}"
        async with calling(store, host, schedule=NO_RETRIES):
            callback = await settled(store, await done(store, f"https://{host}/"))
        assert callback.error == f"the certificate of {host} is not trusted"
        assert receiver.came == []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        async with calling(store, host, schedule=NO_RETRIES):
            callback = await settled(store, await done(store, f"https://{host}/"))
        assert (callback.state, len(receiver.came)) == (Delivery.DELIVERED, 1)


async def test_an_endless_answer_is_not_read(tmp_path: Path) -> None:
    """Only the status counts: little is read of an endless body, and the connection is closed."""
    sent = asyncio.get_running_loop().create_future()

    async def endless(request: Any) -> Any:
        response = web.StreamResponse(status=200)
        await response.prepare(request)
        count = 0
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(bytes(1 << 16))
                count += 1 << 16
        sent.set_result(count)
        return response

    async with opened(tmp_path) as store, Receiver(endless) as receiver, calling(store, receiver.host):
        assert (await settled(store, await done(store, receiver.url()))).tries == 1
        assert await asyncio.wait_for(sent, 5) < 20 << 20  # what the kernel holds for a socket, at most


END_CASES = {
    "signalled": End(Ending.SIGNALLED, 2_000, signal="SIGSEGV", started=1_000, duration=1.0),
    "timed_out": End(Ending.TIMED_OUT, 2_000, signal="SIGKILL", started=1_000, duration=1.0),
    "lost": End(Ending.LOST, 2_000, detail="хост был перезапущен", started=1_000),
    "failed_to_start": End(Ending.FAILED_TO_START, 2_000, detail="нет такого каталога"),
}


@pytest.mark.parametrize("ending", END_CASES)
async def test_every_end_is_called_back(tmp_path: Path, ending: Any) -> None:
    """For each ending, the callback has it."""
    async with opened(tmp_path) as store, Receiver() as receiver, calling(store, receiver.host):
        end = END_CASES[ending]
        await settled(store, await done(store, receiver.url(), end))
        result = receiver.came[0].result
        assert (result["ending"], result["signal"], result["detail"]) == (ending, end.signal, end.detail)


async def test_jobs_that_never_started_are_called_back(tmp_path: Path) -> None:
    """A job cancelled while it was queued, and one skipped after it, are reported as such."""
    async with opened(tmp_path) as store, Receiver() as receiver, calling(store, receiver.host):
        first = (await store.add(asked(receiver.url("/first")))).id
        second = (await store.add(asked(receiver.url("/second"), after=[first]))).id
        assert (await store.job(first)).callback == Callback(Delivery.PENDING)
        await store.request_cancel(first)
        for job in (first, second):
            await settled(store, job)
        endings = {call.path: call.result["ending"] for call in receiver.came}
        assert endings == {"/first": "cancelled", "/second": "skipped"}


async def test_only_the_last_attempt_is_called_back(tmp_path: Path) -> None:
    """A retried job is reported once, when it is done, with its last attempt's result."""
    async with opened(tmp_path) as store, Receiver() as receiver, calling(store, receiver.host):
        await store.add(asked(receiver.url(), retries={"max": 2}))
        for code, again in ((1, 0), (0, None)):
            claim = await store.claim(1, "t")
            await store.finish(claim.job_id, "t", ended(code), *NOTHING, next_attempt_at=again)
        await settled(store, claim.job_id)
        (call,) = receiver.came
        assert (call.result["exit_code"], call.result["attempt"]) == (0, 2)


async def test_jobs_without_a_callback_are_not_reported(tmp_path: Path) -> None:
    """A job without `notify` is reported to no URL, and shows no callback."""
    async with opened(tmp_path) as store, Receiver() as receiver, calling(store, receiver.host):
        await store.add(SPEC)
        claim = await store.claim(1, "t")
        await store.finish(claim.job_id, "t", ended(), *NOTHING)
        await settled(store, await done(store, receiver.url()))
        assert (await store.job(claim.job_id)).callback is None
        assert len(receiver.came) == 1


async def test_a_host_that_is_no_longer_allowed_is_not_called(tmp_path: Path) -> None:
    """After a restart with other hosts, due callbacks fail at once with that reason, and nothing is sent."""
    async with opened(tmp_path) as store, Receiver(500) as receiver:
        async with calling(store, receiver.host):
            job = await done(store, receiver.url())
            await tried(store, job, 1)
        sent = len(receiver.came)
    async with opened(tmp_path) as store:
        async with calling(store, "example.org"):
            callback = await settled(store, job)
        assert callback.state is Delivery.FAILED
        assert callback.error == f"{receiver.host} is no longer in the setting callbacks.hosts"
    assert len(receiver.came) == sent


async def test_what_was_deleted_is_not_sent(tmp_path: Path) -> None:
    """A deleted job's callback is deleted; that of a deleted result fails with that reason."""
    async with opened(tmp_path) as store, Receiver(500) as receiver:
        async with calling(store, receiver.host, schedule=RetrySchedule(first_delay=60.0)):
            gone, forgotten = [await done(store, receiver.url()) for _ in range(2)]
            for job in (gone, forgotten):
                await tried(store, job, 1)
        await store.delete_job(gone)
        await store.delete_result(forgotten)
        await store._engine.write(lambda db: db.execute("UPDATE callbacks SET due = 1"))
        async with calling(store, receiver.host):
            callback = await settled(store, forgotten)
            assert (callback.state, callback.error) == (
                Delivery.FAILED,
                "the result was deleted before it was delivered",
            )
            assert await store.next_callback_at() is None
        assert len(receiver.came) == 2


@pytest.mark.heavy
async def test_many_results_are_all_delivered_once(tmp_path: Path) -> None:
    """Two hundred results at once reach a receiver that takes them, each exactly once."""
    async with opened(tmp_path) as store, Receiver() as receiver, calling(store, receiver.host):
        jobs = [await done(store, receiver.url()) for _ in range(200)]
        for job in jobs:
            await settled(store, job)
        assert sorted(call.result["job_id"] for call in receiver.came) == jobs


# With the real service ------------------------------------------------------------------------------------------


def allowed(*hosts: Any) -> dict[str, Any]:
    """Return settings as environment variables."""
    return {"CALLBACKS__HOSTS": json.dumps(hosts), "CALLBACKS__SECRET": SECRET}


@contextlib.asynccontextmanager
async def serving(path: Any, *hosts: Any) -> AsyncIterator[Any]:
    """Yield a service that may call these hosts; it must ignore a proxy in its environment."""
    service = new_service(path, **allowed(*hosts))
    service.environment = {"HTTP_PROXY": "http://127.0.0.1:1", "http_proxy": "http://127.0.0.1:1"}
    try:
        yield await service.start()
    finally:
        await service.clear_away()


async def notified(service: Service, job: Any, state: Any) -> Any:
    """Wait until the job shows this."""

    async def shown() -> Any:
        _, _, found = await service.get(f"/api/jobs/{job}")
        return found["notify"] if found["notify"]["state"] == state else None

    return await until(shown, what=f"job {job} shows {state}")


@pytest.mark.heavy
async def test_killed_between_tries_the_service_goes_on_with_them(tmp_path: Path) -> None:
    """After 500 and kill -9 the next process delivers, with the same id; the job shows it, and never the URL."""
    async with Receiver(500, 200) as receiver, serving(tmp_path, receiver.host) as service:
        url = receiver.url("/hook?token=geheim")
        job = await service.submit("echo привет", notify={"url": url})
        await until(lambda: receiver.came)

        async def tried_once() -> bool:
            return bool((await service.get(f"/api/jobs/{job}"))[2]["notify"]["tries"] == 1)

        await until(tried_once)
        await service.kill()
        service.execute("UPDATE callbacks SET due = 1")  # a test has no patience
        await service.start()
        assert await notified(service, job, "delivered") == {"state": "delivered", "tries": 2, "error": None}
        first, second = receiver.came
        assert first.headers["webhook-id"] == second.headers["webhook-id"]
        assert first.content == second.content
        assert second.result["stdout"] == "привет\n"
        status, _, text = await service.ask("GET", f"/api/jobs/{job}")
        assert status == 200
        assert "geheim" not in json.dumps(text)
        assert "geheim" not in json.dumps(service.log)


@pytest.mark.heavy
async def test_killed_before_the_delivery_is_recorded_it_is_delivered_again(tmp_path: Path) -> None:
    """A service that dies after the receiver got the result but before recording it resends it under the same id."""
    async with contextlib.AsyncExitStack() as stack:

        async def kill(request: Any) -> Any:
            await service.kill()
            return web.Response()

        receiver = await stack.enter_async_context(Receiver(kill, 200))
        service = await stack.enter_async_context(serving(tmp_path, receiver.host))
        job = await service.submit("exit 7", notify={"url": receiver.url()})
        await until(lambda: service.process.returncode is not None)
        await service.start()
        await notified(service, job, "delivered")
        first, second = receiver.came
        assert first.headers["webhook-id"] == second.headers["webhook-id"]
        assert first.is_genuine
        assert second.is_genuine
        assert second.result["exit_code"] == 7


async def test_a_host_that_is_not_allowed_is_refused(service: Service) -> None:
    """Without the setting, a job with a callback is 422, which names the setting."""
    spec = {"command": "true", "notify": {"url": "http://127.0.0.1/"}}
    status, _, problem = await service.ask("POST", "/api/jobs", json=spec)
    assert status == 422
    assert problem["errors"][0]["pointer"] == "#/notify/url"
    assert "callbacks.hosts" in problem["errors"][0]["detail"]


@pytest.mark.parametrize(
    "host",
    ["ho\u212a.example", "hok\u3002example", "hok.example\u200b", "hok.example\t", "hok.example\\", "u@hok.example"],
)
def test_host_names_are_ascii(host: str) -> None:
    """A host with letters of other scripts is refused, so that names are compared as configured."""
    with pytest.raises(ValidationError, match="must be an http or https URL"):
        JobSpec.model_validate({"command": "true", "notify": {"url": f"http://{host}/"}})


@pytest.mark.parametrize(
    ("callbacks", "words"),
    [
        ({"hosts": ["example.org"]}, "callbacks.hosts: requires callbacks.secret"),
        ({"hosts": ["example.org"], "secret": "whsec_Z2VoZWlt"}, "24 to 64 random bytes"),
        ({"hosts": ["example.org"], "secret": SECRET.removeprefix("whsec_")}, "must be whsec_ followed by"),
        ({"hosts": ["example.org"], "secret": SAMPLE}, "is the secret of a published example"),
        ({"hosts": ["http://example.org/"], "secret": SECRET}, "must be HOST or HOST:PORT"),
        ({"hosts": ["user@example.org"], "secret": SECRET}, "must be HOST or HOST:PORT"),
        ({"hosts": ["example.org:65536"], "secret": SECRET}, "must be HOST or HOST:PORT"),
    ],
)
def test_config_refuses_callbacks_that_could_not_be_trusted(callbacks: dict[str, Any], words: str) -> None:
    """Hosts need a secret, a secret needs its form, a host is not a URL; no error repeats the secret."""
    with pytest.raises(ConfigError) as refused:
        load(None, callbacks=callbacks)
    assert words in refused.value.detail
    assert "secret" not in callbacks or callbacks["secret"] not in refused.value.detail


@pytest.mark.heavy
@pytest.mark.sqlite(reason="a service in the test's process is a single host")
async def test_a_crash_of_the_caller_ends_the_process_loudly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug in the callbacks ends the service with status 1 and a log line, and no job is harmed."""

    async def bug(self: Any, client: Any, due: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(CallbackSender, "_send", bug)
    sections = {"callbacks": {"hosts": ["127.0.0.1"], "secret": SECRET}}
    async with InProcess(tmp_path / "state", **sections) as service:
        job = await service.submit("true", notify={"url": "http://127.0.0.1/"})
        assert await asyncio.wait_for(service.serving, 10) == 1
    assert "the callback sender crashed" in caplog.text
    async with opened(tmp_path / "state") as store:
        assert (await store.job(job)).callback == Callback(Delivery.PENDING)
