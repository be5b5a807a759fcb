"""A service that requires tokens: the ways to supply one, and whose job a verb is about."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import Typist
from tests.support.selected_service import new_service
from tests.support.service import Service
from tests.support.tokens import hash_of, secret_of


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[Service]:
    """Yield a service with the tokens reader, runner and other."""
    config = tmp_path / "config.toml"
    scopes = {"reader": ["read"], "runner": ["read", "run"], "other": ["read", "run"]}
    config.write_text("".join(map(token, scopes, scopes.values())))
    config.chmod(0o600)
    service = new_service(tmp_path / "state")
    service.program += ["--config", str(config)]
    await service.start()
    try:
        yield service
    finally:
        await service.clear_away()


@pytest.mark.heavy
async def test_a_token_is_required_and_the_message_says_how_to_supply_one(guarded: Service, tmp_path: Path) -> None:
    """A token is taken from the environment or the user's file; a refusal is one line that names what to correct."""
    typist = Typist(tmp_path, SHELLRUNNER_URL=guarded.url)
    file = tmp_path / ".config" / "shellrunner" / "client.toml"
    done = await typist.run("run", "true")
    assert (done.code, done.err) == (
        125, f'{guarded.url} requires a token: set SHELLRUNNER_TOKEN, or add token = "…" to {file}\n',
    )  # fmt: skip
    typist.environment["SHELLRUNNER_TOKEN"] = "wrong"
    done = await typist.run("ps")
    assert (done.code, done.err) == (
        1, f"{guarded.url} rejects the token from SHELLRUNNER_TOKEN: it is unknown or expired\n",
    )  # fmt: skip
    typist.environment["SHELLRUNNER_TOKEN"] = secret_of("reader")
    done = await typist.run("run", "true")
    assert (done.code, done.err) == (125, "this token lacks the scope 'run'\n")
    del typist.environment["SHELLRUNNER_URL"], typist.environment["SHELLRUNNER_TOKEN"]
    file.parent.mkdir(parents=True)
    file.write_text(f'url = "{guarded.url}"\ntoken = "{secret_of("runner")}"\n')
    file.chmod(0o600)
    assert (await typist.run("run", "echo in")).out == b"in\n"
    file.write_text(f'url = "{guarded.url}"\ntoken = "wrong"\n')
    done = await typist.run("run", "echo in")
    assert (done.code, done.err) == (
        125, f"{guarded.url} rejects the token from {file}: it is unknown or expired\n",
    )  # fmt: skip


@pytest.mark.heavy
async def test_a_job_of_somebody_else_is_named_by_its_id_and_gets_nothing_of_ones_environment(
    guarded: Service, tmp_path: Path
) -> None:
    """Its variables are not filled in unless they are named; without an id, only one's own jobs are changed."""
    mine, others = (
        Typist(tmp_path, SHELLRUNNER_URL=guarded.url, SHELLRUNNER_TOKEN=secret_of(name), SECRET=name)
        for name in ("runner", "other")
    )
    theirs = await submitted(others, "-e", "SECRET", 'echo "$SECRET"')
    assert (await others.run("wait", theirs)).code == 0
    refused = await mine.run("again", theirs)
    assert (refused.code, refused.out) == (125, b"")
    assert "--env SECRET: " in refused.err
    repeated = (await others.run("again")).out.decode().strip()
    assert (await others.run("logs", "-f", repeated)).out == b"other\n"
    given = (await mine.run("again", "--clean", "-e", "SECRET", theirs)).out.decode().strip()
    assert (await mine.run("logs", "-f", given)).out == b"runner\n"
    own, running = await submitted(mine, "sleep 60"), await submitted(others, "sleep 60")
    assert (await mine.run("cancel")).err.startswith(f"job {own} ")
    assert (await mine.run("wait", own)).code != 0
    left = await mine.run("cancel")
    assert (left.code, left.err) == (
        1,
        "there is no job of token:runner that is waiting or queued or running: name a job of others by its id\n",
    )
    assert (await mine.run("rm", "last")).err == f"deleted job {own}\n"
    after = await submitted(mine, "--hold", "--after", "last", "true")
    assert (await mine.run("show", "-o", "template={job.after}", after)).out == f"{given}\n".encode()
    assert (await others.run("cancel", "last")).err.startswith(f"job {running} ")


async def submitted(typist: Typist, *arguments: str) -> str:
    """Return the id of a job that was submitted."""
    return (await typist.run("submit", *arguments)).out.decode().strip()


def token(name: Any, scopes: Any) -> str:
    """Return the configuration of a token."""
    return f'[[auth.tokens]]\nname = "{name}"\nhash = "{hash_of(name)}"\nscopes = {scopes}\n'
