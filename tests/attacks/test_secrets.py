"""Secrets of jobs: a value is in no file of the service, in no line of its log and in no answer, whatever happens.

On a cluster the files are those of PostgreSQL too: its tables, its write-ahead log and its log.

A3 of docs/explanation/failures.md. The canary is searched for while jobs wait, run, are retried and refused, after
the service was killed, and after they have ended.
"""

import base64
import hashlib
import itertools
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.selected_service import new_service
from tests.support.service import Service
from tests.support.waiting import until

CANARY = "canary-5f3a9"
PLAIN = b"plain-5f3a9"  # what is no secret, and so is found
ENV = {"SECRET": CANARY}
DIGEST = hashlib.sha256(CANARY.encode()).hexdigest()
CHECK = f'test "$(cat)" = "$SECRET" && printf %s "$SECRET" | sha256sum | grep -q {DIGEST}'
FORMS = (
    CANARY.encode(),
    base64.b64encode(CANARY.encode())[:-4],
    CANARY.encode().hex().encode(),
    CANARY.encode("utf-16-le"),
)


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """Yield a service that logs all it can."""
    service = new_service(tmp_path / "state", LOG__LEVEL="debug", SUPERVISOR__MAX_RUNNING=3)
    await service.start()
    try:
        yield service
    finally:
        await service.clear_away()


def files_with(service: Service, forms: Sequence[bytes]) -> list[Path]:
    """Return each file with one of these."""
    found = []
    for path in service.stored_files():
        with suppress(FileNotFoundError):  # removed meanwhile
            if any(form in content for content in [path.read_bytes()] for form in forms):
                found.append(path)
    return found


def places(service: Service) -> list[str]:
    """Return each file, and each line of the log, with the canary."""
    lines = [str(line) for line in service.log if CANARY in json.dumps(line)]
    return [*map(str, files_with(service, FORMS)), *lines]


async def answers(service: Service, *jobs: int) -> bytes:
    """Return all that the API says of the jobs."""
    paths = ["/api/jobs", "/api/statuses", "/api/results", "/metrics", "/api/queues"]
    for job in jobs:
        paths += [f"/api/{kind}/{job}" for kind in ("jobs", "statuses", "results")]
    return b"".join([json.dumps((await service.get(path))[2], default=str).encode() for path in paths])


@pytest.mark.heavy
async def test_a3_no_file_log_or_answer_has_a_secret_of_a_job(service: Service, tmp_path: Path) -> None:
    """A3: ciphertext only, in rows, WAL, slots, backups and after kill -9; the key is gone with the last attempt."""
    gate = tmp_path / "gate"
    wait = f"while [ ! -e {gate} ]; do sleep 0.02; done"
    running = await service.submit(f"{wait}; {CHECK}", env=ENV, stdin=CANARY)
    streamed = await service.submit(f"read word; {wait}; test $word = $SECRET", env=ENV, stdin={"stream": True})
    read = f"read word; {wait}; test $word = $SECRET"
    terminal = await service.submit(read, env=ENV, stdin=f"{CANARY}\n", tty=True, labels={"is": PLAIN.decode()})
    waiting = await service.submit(CHECK, env=ENV, stdin=CANARY, after=[running])
    twice = f"{CHECK} || exit 9; mkdir {gate}.first && exit 3; exit 0"
    retried = await service.submit(twice, env=ENV, stdin=CANARY, retries={"max": 1, "delay": 0.01})
    await service.running(streamed)
    assert (await service.ask("POST", f"/api/jobs/{streamed}/stdin", data=f"{CANARY}\n".encode()))[0] == 204
    jobs = (running, streamed, terminal, waiting, retried)
    await until(lambda: len(service.job_keys()) == 5)
    assert places(service) == []
    assert files_with(service, [PLAIN])
    assert CANARY.encode() not in await answers(service, *jobs)

    service.back_up(tmp_path / "backup")
    content = b"".join(path.read_bytes() for path in (tmp_path / "backup").rglob("*") if path.is_file())
    assert not any(form in content for form in FORMS)
    assert PLAIN in content
    await service.kill()
    assert places(service) == []
    await service.start()
    gate.touch()
    assert {(await service.result(job))["exit_code"] for job in jobs} == {0}
    await until(lambda: not service.job_keys(), what="the keys are destroyed")
    assert places(service) == []
    assert CANARY.encode() not in await answers(service, *jobs)


def _specs() -> Iterator[dict[str, Any]]:
    """Yield invalid jobs with the canary in each place where a value may be."""
    valid = {"command": "true"}
    yield valid | {"env": {"SECRET": f"{CANARY}\0"}}
    yield valid | {"env": {"SECRET": [CANARY]}}
    yield valid | {"env": {"SECRET": CANARY}, "timeout": -1}
    yield valid | {"env": [CANARY]}
    yield valid | {"env": {"SECRET": CANARY * 20_000}}
    yield valid | {"env": {"SECRET": f"{CANARY}\ud800"}}
    yield valid | {"stdin": [CANARY]}
    yield valid | {"stdin": {"stream": CANARY}}
    yield valid | {"stdin": CANARY, "after": [999]}
    yield valid | {"stdin": f"{CANARY}\ud800"}
    yield {"env": ENV, "stdin": CANARY}


@pytest.mark.heavy
async def test_a3_a_refusal_repeats_no_secret(service: Service) -> None:
    """A3: neither the answer to an invalid job nor the log has its values; no key is left of it."""
    for spec, suffix in itertools.product(_specs(), (b"", b"}")):
        body = json.dumps(spec).encode() + suffix
        headers = {"Content-Type": "application/json", "Idempotency-Key": "one"}
        status, _, answer = await service.ask("POST", "/api/jobs", data=body, headers=headers)
        assert status in (400, 422), (spec, answer)
        assert CANARY not in json.dumps(answer)
    assert places(service) == []
    assert service.job_keys() == []


@pytest.mark.heavy
async def test_a3_an_idempotency_key_keeps_no_hash_of_a_short_secret(service: Service) -> None:
    """A3: who has a backup cannot try values; no SHA-256 of the body is there."""
    spec = {"command": "true", "stdin": "1234"}
    spellings = [json.dumps(spec, **options).encode() for options in _SPELLINGS]
    headers = {"Content-Type": "application/json", "Idempotency-Key": "one"}
    for body in spellings[:1] * 2:
        assert (await service.ask("POST", "/api/jobs", data=body, headers=headers))[0] == 202
    digests = [form for each in map(hashlib.sha256, spellings) for form in (each.digest(), each.hexdigest().encode())]
    assert files_with(service, digests) == []


_SPELLINGS: list[dict[str, Any]] = [
    {"sort_keys": sort, "separators": separators} for sort in (False, True) for separators in (None, (",", ":"))
]
