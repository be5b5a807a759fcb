"""Secrets at rest: sealed rows, and keys that are there from before the commit until the job has ended for good."""

import asyncio
import errno
import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from shellrunner.errors import InvalidJob, KeyReused, NoSpace, QueueFull, StoreUnavailable
from shellrunner.model import Claim, Ending, Job, JobSpec, State
from shellrunner.model.filters import Filters
from shellrunner.sealing import key_files, sealed_text
from shellrunner.sealing.key_files import JobKey, KeyFiles, KeyUnusable
from shellrunner.store import IdempotencyKey, QueueLimits, Retention
from shellrunner.store.sqlite.composition import open_store
from shellrunner.store.sqlite.store import SqliteStore
from shellrunner.store.units.admission import NewJob
from tests.support.histories import NOTHING, SPEC, ended, opened
from tests.support.waiting import until

pytestmark = pytest.mark.sqlite

SECRET = JobSpec(command="cat", env={"A": "канарейка"}, stdin="канарейка")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    async with opened(tmp_path, QueueLimits(max_queued=3)) as store:
        yield store


def keys(path: Path) -> set[str]:
    return KeyFiles(str(path)).names()


def with_secrets(**spec: Any) -> JobSpec:
    return SECRET.model_copy(update=spec)


async def gone(path: Path) -> None:
    await until(lambda: not keys(path), what="the key is destroyed")


async def stored(store: SqliteStore, job_id: int) -> str:
    row = await store._engine.read(
        lambda db: db.execute("SELECT secrets FROM jobs WHERE id = ?", (job_id,)).fetchone()
    )
    return str(row[0])


def in_history(path: Path, statement: str, *values: object) -> None:
    """Change the history while it is closed."""
    db = sqlite3.connect(path / "history.db")
    with db:
        db.execute(statement, values)
    db.close()


async def test_only_a_job_with_secrets_has_a_key(store: SqliteStore, tmp_path: Path) -> None:
    """A job without values has no key and no sealed text; one with values has both, and the key is private."""
    plain = await store.add(JobSpec(command="true", env={}))
    assert (keys(tmp_path), await stored(store, plain.id)) == (set(), "None")
    secret = await store.add(SECRET)
    (name,) = keys(tmp_path)
    assert (await stored(store, secret.id)).startswith(f"sealed1:{name}:")
    status = (tmp_path / "keys" / name).stat()
    assert (status.st_mode & 0o777, status.st_size) == (0o600, 32)


async def test_the_key_is_overwritten_and_removed_at_the_end(store: SqliteStore, tmp_path: Path) -> None:
    """Who has the file open reads zeros once the job has ended."""
    await store.add(SECRET)
    (name,) = keys(tmp_path)
    with (tmp_path / "keys" / name).open("rb") as file:
        key = file.read()
        claim = await store.claim(1, "t")
        assert claim.spec == SECRET
        assert await store.finish(claim.job_id, "t", ended(), *NOTHING)
        await gone(tmp_path)
        file.seek(0)
        assert (len(key), file.read()) == (32, bytes(32))


async def _cancelled(store: SqliteStore) -> None:
    await store.request_cancel((await store.add(SECRET)).id)


async def _skipped(store: SqliteStore) -> None:
    first = await store.add(SPEC)
    await store.add(with_secrets(after=(first.id,)))
    await store.request_cancel(first.id)


async def _skipped_at_once(store: SqliteStore) -> None:
    first = await store.add(SPEC)
    await store.request_cancel(first.id)
    assert (await store.add(with_secrets(after=(first.id,)))).done


async def _full(store: SqliteStore) -> None:
    for _ in range(3):
        await store.add(SPEC)
    with pytest.raises(QueueFull):
        await store.add(SECRET)


async def _invalid(store: SqliteStore) -> None:
    with pytest.raises(InvalidJob):
        await store.add(with_secrets(after=(99,)))


async def _replayed(store: SqliteStore) -> None:
    key = IdempotencyKey("who", "k", b"digest")
    first = await store.add(SPEC, key)
    assert (await store.add(SECRET, key)).id == first.id


async def _reused(store: SqliteStore) -> None:
    await store.add(SPEC, IdempotencyKey("who", "k", b"one"))
    with pytest.raises(KeyReused):
        await store.add(SECRET, IdempotencyKey("who", "k", b"two"))


async def _requeued_and_cancelled(store: SqliteStore) -> None:
    job = await store.add(SECRET)
    await store.claim(1, "t")
    await store.request_cancel(job.id)
    await store.requeue(job.id, "t")


async def _given_up(store: SqliteStore) -> None:
    """Cancel the caller at each moment of its wait."""
    for steps in range(6):
        adding = asyncio.create_task(store.add(with_secrets(command=f"job {steps}")))
        for _ in range(steps):
            await asyncio.sleep(0)
        adding.cancel()
        await asyncio.gather(adding, return_exceptions=True)
        await store.check()
        for job in [listed.job() for listed in (await store.page(Filters(), (), limit=10)).jobs]:
            if not job.done:
                await store.request_cancel(job.id)


@pytest.mark.parametrize(
    "ending",
    [
        _cancelled, _skipped, _skipped_at_once, _full, _invalid, _replayed, _reused, _requeued_and_cancelled,
        _given_up,
    ],
)  # fmt: skip
async def test_no_key_stays_of_a_job_that_will_not_run(store: SqliteStore, tmp_path: Path, ending: Any) -> None:
    """However a job ends before its start, or is refused, its key goes."""
    await ending(store)
    await gone(tmp_path)


async def test_retries_keep_the_key_until_the_last(store: SqliteStore, tmp_path: Path) -> None:
    """Each attempt gets the values; the key goes with the last one."""
    await store.add(SECRET)
    for attempt in (1, 2):
        claim = await store.claim(1, f"t{attempt}")
        assert (claim.attempt, claim.spec) == (attempt, SECRET)
        assert len(keys(tmp_path)) == 1
        again = 0 if attempt == 1 else None
        await store.finish(claim.job_id, claim.token, ended(1), *NOTHING, next_attempt_at=again)
    await gone(tmp_path)


async def test_many_jobs_at_once_share_the_sync_of_the_directory(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys that are wanted while others are written are made together; each job gets its own."""
    synced: list[str] = []
    monkeypatch.setattr(key_files, "sync_directory", synced.append)
    specs = [with_secrets(env={"A": f"value {number}"}, start_at="2096-01-01T00:00:00Z") for number in range(3)]
    jobs = await asyncio.gather(*(store.add(spec) for spec in specs))
    assert len({(await stored(store, job.id)).split(":")[1] for job in jobs}) == len(keys(tmp_path)) == 3
    assert len(synced) < 3


# A key that cannot be used ---------------------------------------------------------------------------------------


def _remove(path: Path) -> None:
    path.unlink()


def _shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:16])


def _zero(path: Path) -> None:
    path.write_bytes(bytes(32))


def _make_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


@pytest.mark.parametrize("damage", [_remove, _shorten, _zero, _make_directory, _link])
async def test_without_its_key_a_job_ends_and_the_next_one_starts(
    store: SqliteStore, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    """It never starts with empty or other values: it ends as `failed_to_start`, with the reason and what to do."""
    job = await store.add(SECRET)
    (name,) = keys(tmp_path)
    following = await store.add(SPEC)
    damage(tmp_path / "keys" / name)
    assert (await store.claim(1, "t")).job_id == following.id
    phase: Any = (await store.job(job.id)).phase
    assert phase.end.ending is Ending.FAILED_TO_START
    assert (name in phase.end.detail, phase.end.detail.endswith("submit the job again")) == (True, True)


def _swap(path: Path, jobs: list[Job]) -> None:
    in_history(path, "UPDATE jobs SET secrets = (SELECT secrets FROM jobs WHERE id = ?) WHERE id = ?", *_ids(jobs))


def _blank(path: Path, jobs: list[Job]) -> None:
    in_history(path, "UPDATE jobs SET secrets = NULL WHERE id = ?", jobs[1].id)


def _cut(path: Path, jobs: list[Job]) -> None:
    in_history(path, "UPDATE jobs SET secrets = substr(secrets, 1, 60) WHERE id = ?", jobs[1].id)


def _garble(path: Path, jobs: list[Job]) -> None:
    in_history(path, "UPDATE jobs SET secrets = 'sealed1:' WHERE id = ?", jobs[1].id)


def _ids(jobs: list[Job]) -> list[int]:
    return [job.id for job in jobs]


@pytest.mark.parametrize("change", [_swap, _blank, _cut, _garble])
async def test_a_changed_row_starts_nothing(tmp_path: Path, change: Callable[[Path, list[Job]], None]) -> None:
    """What was sealed for one job is of no use in the row of another, and a row without its values is damaged."""
    async with opened(tmp_path) as store:
        jobs = [await store.add(SECRET), await store.add(with_secrets(priority=9))]
    change(tmp_path, jobs)
    async with opened(tmp_path) as store:
        assert (await store.claim(1, "t")).job_id == jobs[0].id
        phase: Any = (await store.job(jobs[1].id)).phase
        assert phase.end.ending is Ending.FAILED_TO_START


async def test_a_key_that_cannot_be_read_now_is_read_later(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Want of descriptors ends no job: the claim is repeated."""
    job = await store.add(SECRET)
    read, failures = KeyFiles.read, [errno.EMFILE, errno.ENFILE]

    def failing(files: KeyFiles, name: str) -> bytes:
        if failures:
            raise OSError(failures[0], os.strerror(failures.pop()))
        return read(files, name)

    monkeypatch.setattr(KeyFiles, "read", failing)
    claim = await store.claim(1, "t")
    assert (claim.job_id, claim.spec, failures) == (job.id, SECRET, [])
    assert "cannot be read now" in caplog.text


@pytest.mark.parametrize(
    ("call", "number", "error"),
    [("open", errno.ENOSPC, NoSpace), ("write", errno.EDQUOT, NoSpace), ("fsync", errno.EIO, StoreUnavailable)],
)
async def test_a_key_that_cannot_be_written_refuses_its_job(
    tmp_path: Path, call: str, number: int, error: type[StoreUnavailable]
) -> None:
    """The job is refused, nothing is left behind, and jobs without secrets are accepted as ever."""
    async with opened(tmp_path) as store:
        with pytest.MonkeyPatch.context() as patch:
            real = getattr(os, call)

            def failing(file: Any, *rest: Any) -> Any:
                path = file if isinstance(file, str) else os.readlink(f"/proc/self/fd/{file}")
                if "/keys/" in path and rest[:1] != (os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK,):
                    raise OSError(number, os.strerror(number))
                return real(file, *rest)

            patch.setattr(os, call, failing)
            with pytest.raises(error) as refused:
                await store.add(SECRET)
        assert type(refused.value) is error
        assert "канарейка" not in refused.value.detail
        assert keys(tmp_path) == set()
        assert (await store.add(SPEC)).state is State.QUEUED
        assert (await store.add(SECRET)).id == 2


# Across restarts and copies --------------------------------------------------------------------------------------


async def test_a_key_without_a_job_goes_at_the_next_start(tmp_path: Path) -> None:
    """Whether the crash came before the commit of the job, or between its end and the removal of its key."""
    async with opened(tmp_path) as store:
        job = await store.add(SECRET)
    (used,) = keys(tmp_path)
    KeyFiles(str(tmp_path)).create(3)
    async with opened(tmp_path) as store:
        assert keys(tmp_path) == {used}
        assert (await store.claim(1, "t")).spec == SECRET
    in_history(tmp_path, "UPDATE jobs SET state = 'done', ending = 'cancelled', completed = 1, secrets = NULL")
    async with opened(tmp_path) as store:
        assert (await store.job(job.id)).done
        assert keys(tmp_path) == set()


async def test_a_held_history_destroys_no_key_until_it_is_released(tmp_path: Path) -> None:
    """It may be the wrong one; what it does not know goes once an admin resumes."""
    async with opened(tmp_path) as store:
        await store.add(SECRET)
    (used,) = keys(tmp_path)
    (unknown,) = KeyFiles(str(tmp_path)).create(1)
    in_history(tmp_path, "UPDATE meta SET value = '0' WHERE key = 'generation'")  # older than its high-water mark
    async with opened(tmp_path) as store:
        assert store.held
        assert keys(tmp_path) == {used, unknown.name}
        await store.pause(None, paused=False)
        await until(lambda: keys(tmp_path) == {used})
        assert (await store.claim(1, "t")).spec == SECRET


async def test_a_new_history_sets_the_keys_of_another_aside(tmp_path: Path) -> None:
    """They may be needed once the other one is found; nothing of it is used for the new one."""
    async with opened(tmp_path) as store:
        await store.add(SECRET, IdempotencyKey("who", "k", b"digest"))
    (name,) = keys(tmp_path)
    (tmp_path / "history.db").unlink()
    async with open_store(tmp_path, Retention(), new_history=True) as store:
        assert keys(tmp_path) == set()
        await store.add(SECRET, IdempotencyKey("who", "k", b"digest"))
    (aside,) = tmp_path.glob("keys.*")
    assert {path.name for path in aside.iterdir()} == {name, "idempotency"}
    assert (aside / "idempotency").read_bytes() != (tmp_path / "keys/idempotency").read_bytes()
    assert aside.stat().st_mode & 0o777 == 0o700


async def test_a_broken_installation_is_noticed_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a job has secrets and the cipher cannot be loaded, the history is not opened; without secrets it is."""

    def broken() -> None:
        raise ImportError("no cryptography")

    async with opened(tmp_path) as store:
        job = await store.add(SECRET)
    with monkeypatch.context() as patch:
        patch.setattr(sealed_text, "load_cipher", broken)
        with pytest.raises(StoreUnavailable, match="the package cryptography is unusable: no cryptography"):
            async with opened(tmp_path):
                pass
        async with opened(tmp_path / "new") as store:
            with pytest.raises(StoreUnavailable, match="no cryptography"):
                await store.add(SECRET)
            assert (await store.add(SPEC)).id == 1
    async with opened(tmp_path) as store:
        assert (await store.claim(1, "t")).job_id == job.id


async def test_missing_keys_are_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The start names the jobs that will not start."""
    async with opened(tmp_path) as store:
        await store.add(SECRET)
    KeyFiles(str(tmp_path)).destroy(keys(tmp_path))
    async with opened(tmp_path):
        pass
    assert [record.__dict__["jobs"] for record in caplog.records if "keys of these jobs" in record.message] == [[1]]


# Digests of requests ---------------------------------------------------------------------------------------------


async def test_no_digest_of_a_request_can_be_computed_without_the_key(tmp_path: Path) -> None:
    """A request is recognized across restarts, but its hash is not in the history; the key is made once."""
    body = b'{"command":"cat","stdin":"1234"}'
    key = IdempotencyKey("who", "k", sha256(body).digest())
    async with opened(tmp_path) as store:
        assert not (tmp_path / "keys/idempotency").exists()
        first, second = await asyncio.gather(store.add(SPEC, key), store.add(SPEC, key))
        assert first.id == second.id
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or key.digest not in path.read_bytes()
    made = (tmp_path / "keys/idempotency").read_bytes()
    async with opened(tmp_path) as store:
        assert (await store.add(SPEC, key)).id == first.id
        with pytest.raises(KeyReused):
            await store.add(SPEC, IdempotencyKey("who", "k", sha256(b"other").digest()))
    assert ((tmp_path / "keys/idempotency").read_bytes(), len(made)) == (made, 32)


# Sealing ---------------------------------------------------------------------------------------------------------


def test_no_text_of_an_object_has_a_secret() -> None:
    """Neither the representation of a job, on its way through the service, nor the error of an invalid one."""
    claim = Claim(1, "t", 1, SECRET, 0)
    assert "канарейка" not in repr((SECRET, claim, NewJob.accept(SECRET, 0)))
    with pytest.raises(ValidationError) as invalid:
        JobSpec.model_validate(
            {"command": "true", "env": {"A": "канарейка\0"}, "stdin": ["канарейка"], "timeout": -1}
        )
    assert "канарейка" not in str(invalid.value)


def test_the_same_text_is_sealed_differently_each_time() -> None:
    """A unit that runs again uses another nonce; another id, key or text of the same row is refused."""
    key = JobKey("n" * 32, bytes(range(32)))
    one, two = (sealed_text.seal('{"stdin": "x"}', key, 7) for _ in range(2))
    assert one != two
    assert sealed_text.unseal(one, key.secret, 7) == {"stdin": "x"}
    assert "range" not in repr(key)
    assert repr(key.secret) not in repr(key)
    for stored, secret, job_id in ((one, key.secret, 8), (one, bytes(32), 7), (one[:-4], key.secret, 7)):
        with pytest.raises(KeyUnusable):
            sealed_text.unseal(stored, secret, job_id)
