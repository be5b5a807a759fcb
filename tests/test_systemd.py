"""What systemd is told, and the unit it starts the service by."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from shellrunner.systemd import Notifier, serve_command, unit_text


@pytest.fixture(params=["path", "abstract"])
def systemd(request, tmp_path):
    """A socket as systemd has it, and its address as NOTIFY_SOCKET gives it."""
    name = str(tmp_path / "notify")
    address = "@" + name if request.param == "abstract" else name
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(address.replace("@", "\0", 1))
        listener.settimeout(5)
        yield listener, address


def test_notes_arrive_as_sd_notify_has_them(systemd):
    """Each note is one datagram of KEY=value lines, and no text can add a line of its own."""
    listener, address = systemd
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": address})
    notifier.ready("слушает 8000\nMAINPID=1")
    notifier.watchdog()
    notifier.extend(1.5)
    notifier.stopping()
    assert listener.recv(1000).decode() == "READY=1\nSTATUS=слушает 8000 MAINPID=1\n"
    assert listener.recv(1000) == b"WATCHDOG=1\n"
    assert listener.recv(1000) == b"EXTEND_TIMEOUT_USEC=1500000\n"
    assert listener.recv(1000) == b"STOPPING=1\n"
    notifier.close()


def test_what_systemd_left_is_taken_out_of_the_environment():
    """Nothing started later finds the socket or the watchdog."""
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
def test_the_watchdog_is_fed_twice_in_its_time_if_it_is_ours(environment, interval):
    """The interval is half of WATCHDOG_USEC, and none if that was meant for another process."""
    notifier = Notifier.from_environment(environment)
    assert notifier.watchdog_interval == interval
    notifier.close()


@pytest.mark.parametrize("address", [None, "", "/nowhere/at/all", "vsock:2:1", "/" + "x" * 200])
def test_without_a_systemd_that_listens_nothing_happens(address):
    """Neither no socket nor a useless address hurts the service."""
    notifier = Notifier(address)
    notifier.ready("on")
    notifier.watchdog()
    notifier.close()


@pytest.fixture
def analyze():
    """`systemd-analyze verify`, which must be there where the tests are meant to prove something."""
    tool = shutil.which("systemd-analyze")
    if tool is None:
        assert os.environ.get("CI") != "true", "systemd-analyze is missing"
        pytest.skip("no systemd-analyze here")
    return lambda unit: subprocess.run(
        [tool, "verify", unit],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        env={"PATH": os.environ["PATH"]},
    )


@pytest.mark.parametrize("name", ["shellrunner", "a $HOME of 100% обычный name"])
def test_systemd_accepts_the_unit(analyze, tmp_path, name):
    """`systemd-analyze verify` has nothing to say about it, whatever the program and the file are called."""
    executable = tmp_path / name
    executable.symlink_to(sys.executable)
    unit = tmp_path / "shellrunner-test.service"
    unit.write_text(unit_text(serve_command([str(executable)], Path(f"/etc/{name} \\'\".toml")), "root", "root"))
    verdict = analyze(unit)
    assert (verdict.returncode, verdict.stdout + verdict.stderr) == (0, "")


def test_systemd_does_not_accept_just_anything(analyze, tmp_path):
    """The verification would notice a program that is not there and a setting that does not exist."""
    unit = tmp_path / "shellrunner-test.service"
    unit.write_text(unit_text(["/nowhere/shellrunner", "serve"], "root", "root") + "\n[Service]\nKilMode=process\n")
    verdict = analyze(unit)
    assert "/nowhere/shellrunner is not executable" in verdict.stderr
    assert "KilMode" in verdict.stderr


def test_the_unit_keeps_commands_alive_and_their_files():
    """What the design relies on is set, and what would take files away from kept commands is not."""
    text = unit_text(serve_command(["/bin/sr"], Path("/etc/shellrunner/config.toml")), "me", "us")
    settings = [line for line in text.splitlines() if "=" in line and not line.startswith("#")]
    assert "ExecStart=/bin/sr serve --config /etc/shellrunner/config.toml" in settings
    assert {
        "Type=notify", "NotifyAccess=main", "KillMode=process", "OOMPolicy=continue",
        "Restart=always", "StateDirectory=shellrunner", "User=me", "Group=us",
    } <= set(settings)  # fmt: skip
    given = {line.split("=")[0] for line in settings}
    assert not given & {"PrivateTmp", "RuntimeDirectory", "DynamicUser", "NoNewPrivileges"}
    assert "@" not in text
