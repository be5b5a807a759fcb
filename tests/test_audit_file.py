"""The audit log in a file of its own: synced, private, rotated in any way, and never silently incomplete."""

import asyncio
import errno
import json
import os
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from shellrunner.errors import ConfigError
from shellrunner.service.audit_file import MAX_WAITING, AuditFile
from tests.support.selected_service import new_service
from tests.support.service import Service
from tests.support.users import ORDINARY
from tests.support.waiting import until


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a file that is not there yet."""
    return tmp_path / "audit.log"


@pytest.fixture
async def file(path: Path) -> AsyncIterator[AuditFile]:
    """Yield an open audit file."""
    opened = AuditFile(path)
    yield opened
    await opened.close()


def events(path: Path) -> list[str]:
    """Return the events of a file; fails if a line is not whole."""
    return [json.loads(line)["event"] for line in path.read_text().splitlines() if line]


async def test_the_file_is_private_and_lines_are_json(file: AuditFile, path: Path) -> None:
    """It is created with mode 0600; a line is there when the write returns."""
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert await file.write("accepted", {"who": "uid:0", "path": "/\n"})
    (line,) = path.read_text().splitlines()
    found = json.loads(line)
    assert list(found) == ["time", "level", "event", "logger", "who", "path"]
    assert (found["event"], found["logger"], found["path"]) == ("accepted", "shellrunner.audit", "/\n")


def make_readable(path: Path) -> None:
    path.touch(0o640)


def make_writable(path: Path) -> None:
    path.touch()
    path.chmod(0o602)


def make_link(path: Path) -> None:
    target = path.with_name("target")
    target.touch(0o600)
    path.symlink_to(target)


def make_pipe(path: Path) -> None:
    os.mkfifo(path, 0o600)


def share_directory(path: Path) -> None:
    path.parent.chmod(0o777)


def give_away(path: Path) -> None:
    path.touch(0o600)
    os.chown(path, ORDINARY.pw_uid, ORDINARY.pw_gid)


REFUSED = [make_readable, make_writable, make_link, make_pipe, Path.mkdir, share_directory, give_away]


@pytest.mark.parametrize("spoil", REFUSED)
def test_a_file_that_others_can_touch_is_refused(spoil: Callable[[Path], Any], path: Path) -> None:
    """Readable, writable or owned by others, a link, no regular file, in a directory that others may change."""
    if spoil is give_away and os.geteuid() != 0:
        pytest.skip("needs root")
    spoil(path)
    with pytest.raises(ConfigError, match=r"^audit\.file: "):
        AuditFile(path)


async def test_writes_at_the_same_time_share_a_sync(
    file: AuditFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fifty at once need two or three syncs, and none returns before the one that has its line."""
    syncs: list[int] = []
    fdatasync = os.fdatasync

    def counted(fd: int) -> None:
        fdatasync(fd)
        syncs.append(path.read_bytes().count(b"\n"))

    monkeypatch.setattr(os, "fdatasync", counted)

    async def write(number: int) -> bool:
        assert await file.write("accepted", {"n": number})
        return f'"n":{number}}}' in path.read_text() and len(syncs) > 0

    assert all(await asyncio.gather(*map(write, range(50))))
    assert len(syncs) <= 3
    assert syncs[-1] == 50


def rename(path: Path) -> None:
    path.rename(path.with_suffix(".1"))


def rename_and_create(path: Path) -> None:
    path.rename(path.with_suffix(".1"))
    path.touch(0o600)


def copy_and_truncate(path: Path) -> None:
    path.with_suffix(".1").write_bytes(path.read_bytes())
    os.truncate(path, 0)


@pytest.mark.parametrize("rotate", [rename, rename_and_create, copy_and_truncate, Path.unlink])
async def test_a_rotated_file_gets_no_further_line(
    rotate: Callable[[Path], Any], file: AuditFile, path: Path
) -> None:
    """After any rotation the next line is in the new file, without a signal, and no line is lost or damaged."""
    assert await file.write("first", {})
    rotate(path)
    assert await file.write("second", {})
    assert events(path) == ["second"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    if rotate is not Path.unlink:
        assert events(path.with_suffix(".1")) == ["first"]


async def test_a_rotation_to_a_file_of_others_fails_closed(file: AuditFile, path: Path) -> None:
    """If what is at the path may be read by others, nothing is written; once that is mended, it is."""
    assert await file.write("first", {})
    rename(path)
    path.touch(0o644)
    path.chmod(0o644)
    assert not await file.write("second", {})
    assert "other users" in str(await file.failure())
    assert path.read_bytes() == b""
    path.chmod(0o600)
    assert await file.failure() is None
    assert await file.write("third", {})
    assert events(path) == ["audit file checked", "third"]


async def test_half_a_line_at_the_end_is_ended_first(path: Path) -> None:
    """What a power cut or a full disk has left of a line does not spoil the next one."""
    path.touch(0o600)
    path.write_text('{"event":"whole"}\n{"event":"ha')
    file = AuditFile(path)
    assert await file.write("next", {})
    await file.close()
    assert [json.loads(line)["event"] for line in path.read_text().splitlines()[::2]] == ["whole", "next"]


@pytest.mark.parametrize("call", ["write", "fdatasync"])
async def test_a_full_or_failing_disk_refuses_and_recovers(
    call: str, file: AuditFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line that cannot be written or synced is refused and not tried again; one of a response is written later."""
    real = getattr(os, call)
    with monkeypatch.context() as failing:

        def fail(fd: int, *data: Any) -> Any:
            if data and len(data[0]) > 20:
                real(fd, data[0][:20])  # a disk takes what fits
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        failing.setattr(os, call, fail)
        assert not await file.write("accepted", {})
        assert file.post("response", {"n": 1})
        assert not await file.write("accepted", {})
        assert "space" in str(await file.failure())
    assert await file.failure() is None
    assert await file.write("accepted", {"n": 2})
    found = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
    expected = [("response", 1), ("accepted", 2)]
    assert [(line["event"], line["n"]) for line in found if "n" in line][-2:] == expected
    if call == "write":
        assert [line["event"] for line in found].count("accepted") == 1


async def test_what_waits_for_the_disk_is_bounded(
    file: AuditFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While nothing can be written, posted lines wait up to a number, and the next ones are refused."""

    def fail(*_: Any) -> Any:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as failing:
        failing.setattr(os, "fdatasync", fail)
        await file.write("accepted", {})
        assert sum(file.post("response", {"n": number}) for number in range(2 * MAX_WAITING)) == MAX_WAITING
        await file.failure()
    assert await file.failure() is None
    last = [json.loads(line).get("n") for line in path.read_text().splitlines()][-MAX_WAITING - 1 :]
    assert list(range(MAX_WAITING)) in (last[1:], last[:-1])


# The whole service


@pytest.fixture
async def service(tmp_path: Path, path: Path) -> AsyncIterator[Service]:
    """Yield a service with an audit file, not started yet."""
    made = new_service(tmp_path / "state", AUDIT__FILE=path)
    yield made
    await made.clear_away()


@pytest.mark.heavy
async def test_the_audit_log_is_in_the_file_and_fails_closed(service: Service, path: Path) -> None:
    """Lines are in the file, not in the log; while it cannot be used nothing is accepted; SIGHUP reopens it."""
    await service.start()
    job = await service.submit("true")
    assert events(path)[0] == "accepted"
    await until(lambda: events(path) == ["accepted", "response"])
    assert not [entry for entry in service.log if entry["logger"] == "shellrunner.audit"]
    path.chmod(0o644)
    service.process.send_signal(1)
    await until(lambda: "the audit file cannot be written" in [entry["event"] for entry in service.log])
    status, _, problem = await service.ask("POST", "/api/jobs", json={"command": "true"})
    assert (status, problem["type"]) == (503, "/problems/audit-unavailable")
    status, _, problem = await service.get("/readyz")
    assert (status, problem["reasons"]) == (503, ["audit-unavailable"])
    path.chmod(0o600)
    assert (await service.get("/readyz"))[0] == 200
    assert await service.submit("true") == job + 1
    await service.kill()
    assert events(path).count("accepted") == 2  # without a chance to write anything
    await service.start()
    await service.submit("true")
    numbers = [line["request"] for line in map(json.loads, path.read_text().splitlines()) if "command" in line]
    assert len(set(numbers)) == 3  # unique over restarts


async def test_a_file_that_cannot_be_used_is_a_configuration_error(service: Service, path: Path) -> None:
    """The service does not start with an audit file that others can read: exit code 2."""
    path.touch()
    path.chmod(0o644)
    await service.launch()
    assert await service.ended() == 2
