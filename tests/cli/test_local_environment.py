"""What is sent along with a job to a service on this machine: the current directory and the environment."""

import os
import pwd
import re
from pathlib import Path
from typing import Any

import pytest

from shellrunner.cli.foreground import local_environment
from shellrunner.client import Client
from shellrunner.machine import machine_digest
from tests.support.command_line import Typist
from tests.support.service import Service
from tests.support.tcp_proxy import TcpProxy

pytestmark = pytest.mark.asyncio(loop_scope="session")

GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "shell-and-cron.md"
DENIED = [name for names in local_environment.DENIED.values() for name in names]


@pytest.mark.heavy
@pytest.mark.parametrize("verb", [("run",), ("submit",), ("run", "-d")])
async def test_directory_and_environment_are_sent_along(shared: Service, typist: Typist, verb: tuple[str]) -> None:
    """The command has the directory as the shell shows it and each variable; `-e` and `--cwd` win."""
    (typist.home / "real").mkdir()
    (typist.home / "link").symlink_to("real")
    link = typist.home / "link"
    typist.environment |= {"PWD": str(link), "SECRET": "x\ny", "OVER": "here", "SHELLRUNNER_TOKEN": "t" * 9}
    script = 'pwd; printf "%s|" "$SECRET" "$OVER" "$HOME" "${SHELLRUNNER_TOKEN-none}"'
    done = await typist.run(*verb, "-e", "OVER=given", "--", script, cwd=link)
    assert done.code == 0
    if verb != ("run",):
        done = await typist.run("logs", (await shared.result(int(done.out)))["job_id"])
    assert done.out.decode() == f"{link}\nx\ny|given|{typist.home}|none|"
    elsewhere = await typist.run("run", "--cwd", "/", 'pwd; echo "$PWD $OVER"', cwd=link)
    assert elsewhere.out == b"/\n/ here\n"


async def test_clean_sends_neither(shared: Service, typist: Typist) -> None:
    """With --clean the job has only what is named: the service's directory, and the variables of -e."""
    number = (await typist.run("submit", "--clean", "-e", "A=b", "true")).out.decode().strip()
    job = (await shared.get(f"/api/jobs/{number}"))[2]
    assert (job["cwd"], job["env"]) == (None, ["A"])


@pytest.mark.heavy
async def test_another_machine_gets_neither_and_a_terminal_says_so(shared: Service, typist: Typist) -> None:
    """A service behind a forwarded port has another digest: nothing is sent along, and a terminal says so."""
    async with TcpProxy(shared.url) as proxy:
        typist.environment["SHELLRUNNER_URL"] = proxy.url
        proxy.rewrites = {(machine_digest() or "").encode(): b"0" * 64}
        number = (await typist.run("submit", "true")).out.decode().strip()
        job = (await shared.get(f"/api/jobs/{number}"))[2]
        assert (job["cwd"], job["env"]) == (None, [])
        async with typist.at_terminal("run", "echo here") as screen:
            assert await screen.code() == 0
            assert re.fullmatch(rb"the service is on another machine: [^\r]*\r\nhere\r\n", screen.shown)


async def test_a_service_elsewhere_that_claims_to_be_here_gets_neither() -> None:
    """One that knows the digest of this machine is sent nothing, unless by a Unix socket or loopback."""

    async def claim(_: Client) -> Any:
        return {"machine": machine_digest(), "identity": "uid:0"}

    for url, expected in {
        "http://127.0.0.2:80": "uid:0", "http://[::1]": "uid:0", "unix:/socket": "uid:0",
        "http://a.localhost": "uid:0",
        "https://example.org": None, "http://127.0.0.1.example.org": None, "http://192.0.2.1:8000": None,
    }.items():  # fmt: skip
        client = Client(url)
        client.index = claim.__get__(client)  # type: ignore[method-assign]
        assert await local_environment.local_identity(client) == expected, url


async def test_again_does_not_fill_in_what_stays_here(shared: Service, typist: Typist) -> None:
    """A job that has a variable of the client's own, such as its token, is not given the value of here."""
    number = await shared.submit("true", env={"SHELLRUNNER_URL": "x"})
    await shared.result(number)
    done = await typist.run("again", number)
    assert (done.code, "--env SHELLRUNNER_URL: " in done.err) == (125, True)


async def test_a_directory_that_was_removed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No job is submitted that would run in another directory than the one that was meant."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(local_environment.NoCurrentDirectory, match="does not exist any more"):
        local_environment.read()
    assert local_environment.read("/").cwd == "/"


async def test_a_directory_of_the_job_itself_wins() -> None:
    """What a job names itself wins, and PWD is the directory that the job has, as in a line of `batch`."""
    sent = local_environment.read().add_to({"command": "true", "cwd": "/usr", "env": {"HOME": "/tmp"}})
    assert (sent["cwd"], sent["env"]["PWD"], sent["env"]["HOME"]) == ("/usr", "/usr", "/tmp")


async def test_what_is_not_utf8_stays_here(typist: Typist) -> None:
    """A value that JSON cannot have is left out, and named."""
    typist.environment["LATIN"] = os.fsdecode(b"\xe9")
    done = await typist.run("run", "echo ${LATIN-unset}")
    assert (done.out, done.err) == (b"unset\n", "not valid UTF-8, so not sent: the value of LATIN\n")


async def test_what_means_something_here_only_stays_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a variable of the list nor one of the service is sent along, nor what the account sets anyway."""
    account = pwd.getpwuid(os.geteuid())
    for name in (*DENIED, "SHELLRUNNER_URL", "SHELLRUNNER_JOB_ID"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("HOME", account.pw_dir)
    monkeypatch.setenv("USER", "another")
    sent = local_environment.read().variables
    assert not {*DENIED, "HOME", "PWD"} & sent.keys()
    assert not [name for name in sent if name.startswith("SHELLRUNNER_")]
    assert sent["USER"] == "another"


async def test_the_list_is_documented() -> None:
    """The guide names every variable that stays here."""
    text = GUIDE.read_text()
    assert not [name for name in (*DENIED, *local_environment.OF_ACCOUNT) if f"`{name}`" not in text]
