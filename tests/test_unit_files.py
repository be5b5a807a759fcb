"""The systemd units of the service and its socket: accepted by systemd, and as hardened as they claim."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest

from shellrunner.config import Address
from shellrunner.errors import ConfigError
from shellrunner.systemd import unit_files
from shellrunner.systemd.unit_files import ServiceAccount, serve_command, service_unit, user_service_unit, worker_unit

ME, ROOT = ServiceAccount("me", "us"), ServiceAccount("root", "root")


@pytest.fixture
def analyze() -> Any:
    """`systemd-analyze`, which must be there where the tests are meant to prove something."""
    tool = shutil.which("systemd-analyze")
    if tool is None:
        assert os.environ.get("CI") != "true", "systemd-analyze is missing"
        pytest.skip("no systemd-analyze here")
    return lambda *words: subprocess.run(
        [tool, *words], capture_output=True, text=True, check=False, timeout=30, env={"PATH": os.environ["PATH"]}
    )


def settings(text: Any) -> dict[Any, Any]:
    """Return the lines that set something, and what they set."""
    lines = [line for line in text.splitlines() if "=" in line and not line.startswith("#")]
    return {line.partition("=")[0]: line.partition("=")[2] for line in lines}


@pytest.mark.parametrize("hardening", ["sudo", "strict"])
@pytest.mark.parametrize("owner", [ServiceAccount("daemon", "daemon"), ROOT])
@pytest.mark.parametrize("name", ["shellrunner", "a $HOME of 100% @user@ обычный name"])
def test_systemd_accepts_the_units(
    analyze: Any, tmp_path: Path, name: str, owner: Any, hardening: Literal["sudo", "strict"]
) -> None:
    """`systemd-analyze verify` reports nothing, whatever the program and the file are called."""
    executable = tmp_path / name
    executable.symlink_to(sys.executable)
    command = serve_command([str(executable)], Path(f"/etc/{name} \\'\".toml"))
    (tmp_path / "shellrunner-test.service").write_text(service_unit(command, owner, hardening))
    working = serve_command([str(executable)], Path(f"/etc/{name} \\'\".toml"), "worker")
    (tmp_path / "shellrunner-test-worker.service").write_text(worker_unit(working, owner, hardening))
    addresses = [Address("localhost", 8000), Address("::1", 80), Address(path="/run/100% @user@.sock")]
    (tmp_path / "shellrunner-test.socket").write_text(unit_files.socket_unit(addresses, "0660", owner))
    verdict = analyze("verify", *tmp_path.glob("*.s*et"), *tmp_path.glob("*.service"))
    assert (verdict.returncode, verdict.stdout + verdict.stderr) == (0, "")


def test_systemd_does_not_accept_just_anything(analyze: Any, tmp_path: Path) -> None:
    """The verification would notice a program that is not there and a setting that does not exist."""
    unit = tmp_path / "shellrunner-test.service"
    unit.write_text(service_unit(["/nowhere/shellrunner", "serve"], ROOT, "sudo") + "\n[Service]\nKilMode=process\n")
    verdict = analyze("verify", unit)
    assert "/nowhere/shellrunner is not executable" in verdict.stderr
    assert "KilMode" in verdict.stderr


@pytest.mark.parametrize("owner", [ServiceAccount("daemon", "daemon"), ROOT], ids=["user", "root"])
def test_strict_is_strict(analyze: Any, tmp_path: Path, owner: Any) -> None:
    """By `systemd-analyze security` the strict variant is exposed no more than 4.5, and the other one much more."""
    exposed = {}
    for hardening in ("strict", "sudo"):
        unit = tmp_path / f"{hardening}.service"
        unit.write_text(service_unit([sys.executable, "serve"], owner, hardening))
        output = analyze("security", "--offline=true", "--no-pager", unit).stdout
        (exposed[hardening],) = re.findall(r"Overall exposure level for .*: ([0-9.]+)", output)
    assert float(exposed["strict"]) <= 4.5
    assert float(exposed["sudo"]) > 9


@pytest.mark.parametrize("hardening", ["sudo", "strict"])
def test_each_restriction_has_a_comment(hardening: Literal["sudo", "strict"]) -> None:
    """No line of a variant stands without a comment right above it, or above the lines that it stands with."""
    variant = service_unit(["/bin/sr"], ME, hardening).partition("# Hardening: ")[2].partition("[Install]")[0]
    assert "=" in variant
    has_comment = False
    for line in variant.splitlines()[1:]:
        has_comment = line.startswith("#") or (has_comment and line != "")
        assert has_comment or line == "", f"{line} has no comment"


@pytest.mark.parametrize("hardening", ["sudo", "strict"])
def test_the_units_keep_commands_alive_and_their_files(hardening: Literal["sudo", "strict"]) -> None:
    """The units set what running commands need, and nothing that would take files or memory from them."""
    given = settings(service_unit(serve_command(["/bin/sr"], Path("/etc/shellrunner/config.toml")), ME, hardening))
    assert given.items() >= {
        "ExecStart": "/bin/sr serve --config /etc/shellrunner/config.toml",
        "ExecReload": '/bin/sh -c "kill -HUP ${MAINPID}"',
        "Type": "notify", "NotifyAccess": "main", "KillMode": "process", "OOMPolicy": "continue",
        "OOMScoreAdjust": "-500", "LogRateLimitIntervalSec": "1us",
        "Restart": "always", "StateDirectory": "shellrunner", "User": "me", "Group": "us",
    }.items()  # fmt: skip
    assert not given.keys() & {"PrivateTmp", "RuntimeDirectory", "DynamicUser", "RemoveIPC", "PrivateUsers"}
    assert not given.keys() & {"ProtectHome", "MemoryDenyWriteExecute", "PrivateNetwork", "ProcSubset"}


@pytest.mark.parametrize("hardening", ["sudo", "strict"])
def test_a_workers_unit_is_the_services_without_what_concerns_http(hardening: Literal["sudo", "strict"]) -> None:
    """It starts `worker`, never beside the service, and keeps commands alive by the same settings."""
    given = settings(worker_unit(serve_command(["/bin/sr"], Path("/c.toml"), "worker"), ME, hardening))
    service = settings(service_unit(serve_command(["/bin/sr"], Path("/c.toml")), ME, hardening))
    assert given.pop("ExecStart") == "/bin/sr worker --config /c.toml"
    assert given.pop("Conflicts") == "shellrunner.service"
    of_the_service = {"ExecStart", "LogRateLimitIntervalSec"}
    assert {**given, "Description": ""} == {
        **{name: value for name, value in service.items() if name not in of_the_service},
        "Description": "",
    }


def test_sudo_works_in_the_variant_for_it() -> None:
    """The variant for sudo has no setting that implies "no new privileges" (systemd.exec(5))."""
    given = settings(service_unit(["/bin/sr"], ME, "sudo")).keys()
    assert given - {"Environment"} <= {
        "Description", "After", "StartLimitIntervalSec", "Type", "NotifyAccess", "ExecStart", "ExecReload", "User",
        "Group", "StateDirectory", "StateDirectoryMode", "KillMode", "OOMPolicy", "OOMScoreAdjust", "Restart",
        "RestartSec", "LogRateLimitIntervalSec",
        "RestartPreventExitStatus", "WatchdogSec", "TimeoutStartSec", "TimeoutStopSec", "KeyringMode", "WantedBy",
    }  # fmt: skip


def test_root_keeps_what_it_takes_to_run_commands_as_others() -> None:
    """The strict variant leaves nobody any capability, and root those for run_as."""
    assert settings(service_unit(["/bin/sr"], ME, "strict"))["CapabilityBoundingSet"] == ""
    kept = settings(service_unit(["/bin/sr"], ROOT, "strict"))["CapabilityBoundingSet"].split()
    assert {"CAP_SETUID", "CAP_SETGID", "CAP_KILL", "CAP_SYS_PTRACE"} <= set(kept)
    assert "CAP_SYS_ADMIN" not in kept


def test_the_socket_unit_listens_where_the_configuration_says() -> None:
    """Each address is a line of systemd's form; who may connect to a Unix socket is set where there is one."""
    text = unit_files.socket_unit(
        [Address("localhost", 8000), Address("::1", 80), Address(path="/run/a%.sock")], "0660", ME
    )
    assert re.findall(r"(?m)^ListenStream=(.*)$", text) == [
        "127.0.0.1:8000",
        "[::1]:8000",
        "[::1]:80",
        "/run/a%%.sock",
    ]
    given = settings(text)
    assert (given["SocketMode"], given["SocketUser"], given["SocketGroup"]) == ("0660", "me", "us")
    assert "SocketMode" not in settings(unit_files.socket_unit([Address("127.0.0.1", 8000)], "0600", ME))
    with pytest.raises(ConfigError, match=r"server\.port is 0"):
        unit_files.socket_unit([Address("127.0.0.1", 0)], "0600", ME)


@pytest.mark.heavy
def test_the_verb_prints_what_it_is_asked_for(tmp_path: Path) -> None:
    """`shellrunner unit` prints the variant for sudo, --hardening strict the other, --socket the socket's unit.

    The units of the service and of a worker get the URL of the database, if the configuration names that credential.
    """
    config = tmp_path / "config.toml"
    config.write_text('[server]\nlisten = ["127.0.0.1:8123", "unix:/run/shellrunner.sock"]\n')

    def printed(*words: Any) -> Any:
        verb = [sys.executable, "-m", "shellrunner", "unit", "--config", config, "--user", "new-user", *words]
        return subprocess.run(verb, capture_output=True, text=True, check=True, timeout=30).stdout

    assert "NoNewPrivileges=yes" not in printed().splitlines()
    assert "NoNewPrivileges=yes" in printed("--hardening", "strict").splitlines()
    listening = printed("--socket").splitlines()
    assert {"ListenStream=127.0.0.1:8123", "ListenStream=/run/shellrunner.sock", "SocketUser=new-user"} <= set(
        listening
    )
    working = printed("--worker").splitlines()
    assert "Conflicts=shellrunner.service" in working
    assert [line for line in working if line.endswith(f" worker --config {config}")]
    with pytest.raises(subprocess.CalledProcessError) as refused:
        printed("--worker", "--socket")
    assert refused.value.returncode == 2

    credential = f"LoadCredential=database-url:{tmp_path / 'database-url'}"
    assert not [line for line in [*printed().splitlines(), *working] if line.startswith("LoadCredential=")]
    config.write_text('[store]\nurl_file = "database-url"\n')
    assert credential in printed("--worker").splitlines()
    assert credential in printed().splitlines()
    config.write_text("url_file =")  # it is only named, and the service will say what is wrong with it
    assert credential not in printed("--worker").splitlines()


def test_a_users_unit_has_nothing_that_only_the_systems_manager_can_do(analyze: Any, tmp_path: Path) -> None:
    """It names no user and no state directory, starts with the user's session, and is accepted by systemd."""
    text = user_service_unit(serve_command([sys.executable], Path("/home/me/config.toml")))
    given = settings(text)
    assert not given.keys() & {"User", "Group", "StateDirectory", "CapabilityBoundingSet", "KeyringMode"}
    assert (given["WantedBy"], given["Sockets"], given["KillMode"]) == (
        "default.target", "shellrunner.socket", "process",
    )  # fmt: skip
    (tmp_path / "shellrunner.service").write_text(text)
    (tmp_path / "shellrunner.socket").write_text(unit_files.socket_unit([Address(path="/run/a.sock")], "0600", None))
    assert "SocketUser" not in settings((tmp_path / "shellrunner.socket").read_text())
    verdict = analyze("verify", *tmp_path.glob("*.socket"), *tmp_path.glob("*.service"))
    assert (verdict.returncode, verdict.stdout + verdict.stderr) == (0, "")


def test_a_service_with_a_socket_unit_never_binds_the_addresses_itself() -> None:
    """With a socket unit the service has Sockets=, which starts that unit first; without one it has not."""
    assert settings(service_unit(["/bin/sr"], ME, "sudo", has_socket_unit=True))["Sockets"] == "shellrunner.socket"
    assert "Sockets" not in settings(service_unit(["/bin/sr"], ME, "sudo"))


def test_a_unit_says_where_it_belongs() -> None:
    """The comments of a user's own units name that user's directory and `systemctl --user`."""
    command, addresses = ["/bin/sr", "serve"], [Address("127.0.0.1", 8000)]
    own = user_service_unit(command) + unit_files.socket_unit(addresses, "0600", None)
    assert "/etc/systemd/system" not in own
    assert own.count("# systemctl --user daemon-reload") == 2
    assert own.count("~/.config/systemd/user/shellrunner.") == 2
    hosts = service_unit(command, ME, "sudo") + unit_files.socket_unit(addresses, "0600", ME)
    assert hosts.count("/etc/systemd/system/shellrunner.") == 2
    assert "--user daemon-reload" not in hosts
