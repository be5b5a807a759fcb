"""A service that asks for tokens: what the command line says without one, and how one is given."""

import hashlib

from tests.support.command_line import Typist
from tests.support.service import Service


async def test_a_token_opens_the_door_and_without_one_it_says_what_to_do(tmp_path):
    """From the environment or the person's own file; each refusal is one sentence that names what is to be mended."""
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
        typist.environment["SHELLRUNNER_TOKEN"] = "reader"
        done = await typist.run("run", "true")
        assert (done.code, done.err) == (125, "this token lacks the scope run\n")
        del typist.environment["SHELLRUNNER_URL"], typist.environment["SHELLRUNNER_TOKEN"]
        file.parent.mkdir(parents=True)
        file.write_text(f'url = "{service.url}"\ntoken = "runner"\n')
        file.chmod(0o600)
        assert (await typist.run("run", "echo in")).out == b"in\n"
    finally:
        await service.clear_away()


def token(name, scopes):
    """The lines of the configuration for a token that is its own name."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    return f'[[auth.tokens]]\nname = "{name}"\nsha256 = "{digest}"\nscopes = {scopes}\n'
