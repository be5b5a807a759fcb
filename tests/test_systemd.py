"""Notifications to systemd, and the journal's rate limit."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shellrunner.service.startup_warnings import journal_warnings
from shellrunner.systemd.journal import rate_limited_unit
from shellrunner.systemd.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Any, ...]]:
    """Yield a socket as systemd has it, and its address as NOTIFY_SOCKET gives it."""
    name = str(tmp_path / "notify")
    address = "@" + name if request.param == "abstract" else name
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(address.replace("@", "\0", 1))
        listener.settimeout(5)
        yield listener, address


def test_notes_arrive_as_sd_notify_has_them(systemd: tuple[Any, ...]) -> None:
    """Each note is one datagram of KEY=value lines, and no text can add a line of its own."""
    listener, address = systemd
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": address})
    notifier.ready("слушает 8000\nMAINPID=1")
    notifier.watchdog()
    notifier.extend_timeout(1.5)
    notifier.stopping()
    assert listener.recv(1000).decode() == "READY=1\nSTATUS=слушает 8000 MAINPID=1\n"
    assert listener.recv(1000) == b"WATCHDOG=1\n"
    assert listener.recv(1000) == b"EXTEND_TIMEOUT_USEC=1500000\n"
    assert listener.recv(1000) == b"STOPPING=1\n"
    notifier.close()


def test_what_systemd_left_is_taken_out_of_the_environment() -> None:
    """Processes started later inherit neither the socket's nor the watchdog's variables."""
    environment = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "LANG": "C"}
    Notifier.from_environment(environment).close()
    assert environment == {"LANG": "C"}


@pytest.mark.parametrize(
    ("environment", "interval"),
    [
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}, 30),
        ({"WATCHDOG_USEC": "3000000"}, 1.5),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_interval_is_half_of_its_timeout(
    environment: dict[str, Any], interval: float | int | None
) -> None:
    """The interval is half of WATCHDOG_USEC, or None if that is for another process."""
    notifier = Notifier.from_environment(environment)
    assert notifier.watchdog_interval == interval
    notifier.close()


@pytest.mark.parametrize("address", [None, "", "/nowhere/at/all", "vsock:2:1", "/" + "x" * 200])
def test_without_a_systemd_that_listens_nothing_happens(address: str | None) -> None:
    """Without a socket, or with an unusable address, notifications are dropped without an error."""
    notifier = Notifier(address)
    notifier.ready("on")  # no error is raised
    notifier.watchdog()
    notifier.close()


@pytest.mark.parametrize(
    ("cgroup", "interval", "unit"),
    [
        ("0::/system.slice/sr.service\n", None, "sr.service"),
        ("0::/system.slice/sr.service\n", "1", None),
        ("0::/system.slice/sr.service\n", "30000000", "sr.service"),
        ("0::/system.slice/sr.service\n", "soon", "sr.service"),
        ("0::/system.slice/sr.service/inner\n", "1", None),
        ("0::/a.slice/a-b.slice/sr.service\n", "1", None),
        ("9:name=systemd:/system.slice/sr.service\n8:pids:/\n0::/\n", "1", None),
        ("0::/user.slice/user-7.slice/user@7.service/app.slice/sr.service\n", "1", "user@7.service"),
        ("0::/\n", "1", "the unit"),
        ("", "1", "the unit"),
    ],
)
def test_the_journals_rate_limit_is_known(
    cgroup: str, interval: str | None, unit: str | None, tmp_path: Path
) -> None:
    """A unit is limited unless systemd has set, for journald, an interval in which nobody writes enough lines."""
    (tmp_path / "cgroup").write_text(cgroup)
    if interval:
        (tmp_path / "log-rate-limit-interval:sr.service").symlink_to(interval)
    assert rate_limited_unit(tmp_path / "cgroup", tmp_path) == unit
    assert rate_limited_unit(tmp_path / "missing", tmp_path) == "the unit"


def test_a_journal_that_drops_lines_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where standard error goes to the journal and there is no audit file, a warning names unit and setting."""
    status = os.fstat(2)
    monkeypatch.setattr("shellrunner.service.startup_warnings.rate_limited_unit", lambda: "sr.service")
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    assert not list(journal_warnings(None))
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    (warning,) = journal_warnings(None)
    assert "LogRateLimitIntervalSec=1us in sr.service" in warning
    assert not list(journal_warnings(Path("/var/log/shellrunner/audit.log")))
    monkeypatch.setattr("shellrunner.service.startup_warnings.rate_limited_unit", lambda: None)
    assert not list(journal_warnings(None))
