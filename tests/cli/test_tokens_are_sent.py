"""A service that requires tokens: messages without one, and the ways to supply one."""

from pathlib import Path
from typing import Any

from tests.support.command_line import Typist
from tests.support.service import Service
from tests.support.tokens import hash_of, secret_of


async def test_a_token_is_required_and_the_message_says_how_to_supply_one(tmp_path: Path) -> None:
    """A token is taken from the environment or the user's file; a refusal is one line that names what to correct."""
    config = tmp_path / "config.toml"
    config.write_text("".join(map(token, ("reader", "runner"), (["read"], ["read", "run"]))))
    config.chmod(0o600)
    service = Service(tmp_path / "state")
    service.program += ["--config", str(config)]
    await service.start()
    try:
        typist = Typist(tmp_path, SHELLRUNNER_URL=service.url)
        file = tmp_path / ".config" / "shellrunner" / "client.toml"
        done = await typist.run("run", "true")
        assert (done.code, done.err) == (
            125, f'{service.url} requires a token: set SHELLRUNNER_TOKEN, or add token = "…" to {file}\n',
        )  # fmt: skip
        typist.environment["SHELLRUNNER_TOKEN"] = "wrong"
        done = await typist.run("ps")
        assert (done.code, done.err) == (
            1, f"{service.url} rejects the token from SHELLRUNNER_TOKEN: it is unknown or expired\n",
        )  # fmt: skip
        typist.environment["SHELLRUNNER_TOKEN"] = secret_of("reader")
        done = await typist.run("run", "true")
        assert (done.code, done.err) == (125, "this token lacks the scope 'run'\n")
        del typist.environment["SHELLRUNNER_URL"], typist.environment["SHELLRUNNER_TOKEN"]
        file.parent.mkdir(parents=True)
        file.write_text(f'url = "{service.url}"\ntoken = "{secret_of("runner")}"\n')
        file.chmod(0o600)
        assert (await typist.run("run", "echo in")).out == b"in\n"
    finally:
        await service.clear_away()


def token(name: Any, scopes: Any) -> str:
    """Return the configuration of a token."""
    return f'[[auth.tokens]]\nname = "{name}"\nhash = "{hash_of(name)}"\nscopes = {scopes}\n'
