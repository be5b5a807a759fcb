"""Where the command line finds the service, and which token it sends where."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from shellrunner.cli import server_config
from shellrunner.cli.server_config import ServerConfig, find
from shellrunner.client import DEFAULT_URL
from shellrunner.errors import ConfigError
from tests.support.users import as_root


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Return an environment without settings, and an empty home directory."""
    for variable in ("SHELLRUNNER_URL", "SHELLRUNNER_TOKEN", "SHELLRUNNER_SERVER_USER", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """Return a function that writes the user's configuration file."""

    def write(text: Any, mode: int = 0o600) -> str:
        path = tmp_path / "config" / "shellrunner" / "client.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        return str(path)

    return write


def test_the_default_is_the_default_port() -> None:
    """The default URL is used, without a token."""
    assert find(None) == ServerConfig(DEFAULT_URL, "")


def test_a_socket_of_this_user_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket in XDG_RUNTIME_DIR is used; a regular file of that name is not."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    path = tmp_path / "shellrunner.sock"
    path.touch()
    assert find(None).url == DEFAULT_URL
    path.unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        assert find(None).url == f"unix:{path}"


def test_the_command_line_goes_before_the_environment_and_that_before_the_file(
    write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--server overrides the environment, and that the file; each is recorded as the source of the address."""
    path = write('url = "http://file"')
    assert find(None) == ServerConfig("http://file", path)
    monkeypatch.setenv("SHELLRUNNER_URL", "http://environment")
    assert find(None) == ServerConfig("http://environment", "SHELLRUNNER_URL")
    assert find("http://here") == ServerConfig("http://here", "--server")


def test_a_token_of_the_file_goes_to_the_file_s_server_alone(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that the file does not name gets no token from it; a token from the environment goes to any server."""
    path = write('url = "http://file"\ntoken = "secret"')
    assert find(None) == ServerConfig("http://file", path, "secret", path)
    assert find("http://file").token == "secret"
    assert find("http://other").token is None
    monkeypatch.setenv("SHELLRUNNER_URL", "http://other")
    assert find(None).token is None
    monkeypatch.setenv("SHELLRUNNER_TOKEN", "of-environment")
    assert find(None) == ServerConfig("http://other", "SHELLRUNNER_URL", "of-environment", "SHELLRUNNER_TOKEN")


def test_a_token_without_a_url_is_for_the_local_service(write: Any) -> None:
    """A token without a URL is used for the default server, and for no other."""
    write('token = "secret"')
    assert find(None).token == "secret"
    assert find("http://other").token is None


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660])
def test_a_token_that_others_can_read_is_refused(write: Any, mode: int) -> None:
    """The message has the chmod command; a file without a token may be readable by others."""
    path = write('token = "secret"', mode)
    with pytest.raises(
        ConfigError, match=f"^{path}: contains a token, and other users may read or change it: chmod 600 {path}$"
    ):
        find(None)
    write('url = "http://file"', mode)
    assert find(None).url == "http://file"


def test_the_server_s_user_is_of_the_environment_or_else_of_the_file(
    write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a name, a uid or `*`, for every server of this machine."""
    assert find(None).server_user is None
    write('server_user = "daemon"')
    assert find("http://other").server_user == "daemon"
    for user in ("0", "*", "nobody"):
        monkeypatch.setenv("SHELLRUNNER_SERVER_USER", user)
        assert find(None).server_user == user
    monkeypatch.setenv("SHELLRUNNER_SERVER_USER", "no-such-user")
    with pytest.raises(ConfigError, match="SHELLRUNNER_SERVER_USER: server_user: no such user"):
        find(None)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_who_is_trusted_is_not_for_others_to_say(write: Any, mode: int) -> None:
    """A file that others may change cannot name the server's user; one that they may read can."""
    path = write('server_user = "daemon"', mode)
    with pytest.raises(ConfigError, match=f"^{path}: sets server_user, and other users may change it"):
        find(None)
    write('server_user = "daemon"', 0o644)
    assert find(None).server_user == "daemon"


@as_root
def test_a_file_of_another_user_cannot_name_the_server_s_user(write: Any) -> None:
    """Root with the HOME of another user does not let that user choose who is trusted."""
    path = write('server_user = "daemon"')
    os.chown(path, 1, 1)
    with pytest.raises(ConfigError, match=f"^{path}: sets server_user, and belongs to another user"):
        find(None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("url = ", "invalid TOML"),
        ('adress = "x"', "unknown key 'adress': expected url or token"),
        ("url = 1", "url must be a string, in quotes"),
        ("server_user = 999", "server_user must be a string, in quotes"),
        ('token = "a b"', "the token contains characters other than printable ASCII"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused_with_the_place(write: Any, text: str, words: str) -> None:
    """The message names the file and the key."""
    path = write(text)
    with pytest.raises(ConfigError, match=f"^{path}: {words}"):
        find(None)


def test_a_relative_place_for_configuration_is_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A relative XDG_CONFIG_HOME is ignored, as the XDG Base Directory Specification requires."""
    monkeypatch.setenv("XDG_CONFIG_HOME", "config")
    assert server_config.config_path() == tmp_path / ".config" / "shellrunner" / "client.toml"
    monkeypatch.delenv("HOME")
    assert os.fspath(server_config.config_path()).startswith("/")
