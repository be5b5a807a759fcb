"""A UTF-8 byte order mark, which some editors put first: skipped where text is read, kept where bytes are."""

from pathlib import Path

import pytest

from shellrunner.cli import server_config
from shellrunner.config import load
from shellrunner.errors import ConfigError
from shellrunner.installation import config_file
from shellrunner.wire import json_codec
from tests.support.service import Service
from tests.support.tokens import hash_of

MARK = b"\xef\xbb\xbf"
TOKEN = f'[[auth.tokens]]\nname = "ci"\nhash = "{hash_of("ci")}"\nscopes = ["run"]\n'.encode()


def test_it_is_skipped_in_configuration_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """config.toml, the file of tokens, client.toml, and what `install` reads; errors count lines as ever."""
    config, tokens, client = tmp_path / "config.toml", tmp_path / "tokens.toml", tmp_path / "shellrunner/client.toml"
    client.parent.mkdir()
    tokens.write_bytes(MARK + TOKEN)
    config.write_bytes(MARK + f'[auth]\ntokens_file = "{tokens}"\n[supervisor]\nmax_running = 3\n'.encode())
    client.write_bytes(MARK + b'url = "http://localhost:1"\ntoken = "secret"\n')
    for path in (tokens, client, config):
        path.chmod(0o600)
    settings = load(config)
    assert (settings.supervisor.max_running, settings.auth.tokens[0].name) == (3, "ci")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert server_config.find(None)[:3:2] == ("http://localhost:1", "secret")
    assert config_file.read_or_create(config, "", []).server.listen == []
    config.write_bytes(MARK + b"[supervisor]\nmax_runing = 3\n")
    with pytest.raises(ConfigError, match=r"line 2: supervisor\.max_runing"):
        load(config)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_utf16_is_named(tmp_path: Path, encoding: str) -> None:
    """A file in UTF-16 is an error that says so."""
    config = tmp_path / "config.toml"
    config.write_bytes("\ufeff[supervisor]\n".encode(encoding).replace(b"\xff\xfe\xff\xfe", b"\xff\xfe"))
    with pytest.raises(ConfigError, match="is UTF-16: save it as UTF-8"):
        load(config)


def test_it_is_ignored_before_json() -> None:
    """One before a body, as RFC 8259 (8.1) allows; a second one is an error, and one within a string is data."""
    assert json_codec.loads(MARK + '{"a": "\ufeffb"}'.encode()) == {"a": "\ufeffb"}
    with pytest.raises(Exception, match="line 1, column 1"):
        json_codec.loads(MARK + MARK + b"{}")


async def test_a_request_and_its_command_may_begin_with_it(service: Service) -> None:
    """The body, and the text of the command; standard input keeps it."""
    body = MARK + '{"command": "\ufeffecho hi; cat", "stdin": "\ufeffx"}'.encode()
    headers = {"Content-Type": "application/json"}
    status, _, job = await service.ask("POST", "/api/jobs", data=body, headers=headers)
    assert status == 202
    result = await service.result(job["job_id"])
    assert (result["stdout"], result["stderr"]) == ("hi\n\ufeffx", "")
