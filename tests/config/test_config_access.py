"""The settings of who may do what and from where: how they are merged, and how a mistake is refused."""

import hashlib
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from shellrunner.config import AuthSettings, load, with_auth
from shellrunner.config.token_hash import PREFIX, hash_secret
from shellrunner.errors import ConfigError
from tests.config.refusals import refusal
from tests.support.tokens import hash_of
from tests.support.users import NOBODY, as_root

HASH = hash_of("ci")
DIGITS = HASH.removeprefix(PREFIX)
TOKEN = f"[[auth.tokens]]\nname = 'ci'\nhash = '{HASH}'\nscopes = ['read']\n"
OTHER = TOKEN.replace("'ci'", "'other'").replace(HASH, hash_of("other"))


# Where it listens


@pytest.mark.parametrize(
    ("server", "key"),
    [
        ("host = '0.0.0.0'", "host"),
        ("host = '::'", "host"),
        ("host = '192.0.2.1'", "host"),
        ("listen = '10.0.0.1:80'", "listen"),
        ("listen = ['127.0.0.1:80', '[::]:80', 'unix:/run/x']", "listen"),
    ],
)
def test_without_tokens_it_listens_where_only_this_machine_can_get(file: Any, server: str, key: str) -> None:
    """Any other address is refused with a message that says what to do; with a token it is accepted."""
    path = file(f"[server]\n{server}\n")
    (found,) = refusal(path)
    assert found.startswith(f"{path}, line 2: server.{key}: must be localhost, a loopback address or a Unix socket, ")
    assert "shellrunner token create" in found
    assert load(file(f"[server]\n{server}\n{TOKEN}")).auth.tokens


@pytest.mark.parametrize("server", ["host = '::1'", "host = '127.9.9.9'", "listen = ['unix:/run/x', '[::1]:80']"])
def test_loopback_and_unix_sockets_need_no_token(file: Any, server: str) -> None:
    """The kernel knows the user of each client that can reach these."""
    assert load(file(f"[server]\n{server}\n")).auth.tokens == []


@pytest.mark.parametrize(
    ("server", "key", "reason"),
    [
        ("listen = 'unix:run/x'", "listen.0", "must be unix:PATH with an absolute path"),
        (f"listen = 'unix:/{'x' * 107}'", "listen.0", "at most 107 bytes"),
        ("listen = ['127.0.0.1:80', '127.0.0.1']", "listen.1", "must be unix:/PATH, ADDRESS:PORT or [ADDRESS]:PORT"),
        ("listen = '127.0.0.1:70000'", "listen.0", "must be unix:/PATH"),
        ("listen = 'here:80'", "listen.0", "must be localhost or an IP address"),
        ("socket_mode = '8'", "socket_mode", "must be three octal digits"),
        ("names = ['http://a']", "names.0", "must be HOST or HOST:PORT"),
        ("names = ['a:99999']", "names.0", "must be HOST or HOST:PORT"),
        ("origins = ['a']", "origins.0", "must be an origin as browsers send it"),
        ("cors_origins = ['https://a']", "cors_origins", "pages of other sites must send a token"),
        ("proxies = ['10.0.0.1/8']", "proxies.0", "the network is 10.0.0.0/8"),
        ("tls_cert = '/c'", "tls_key", "tls_cert and tls_key must be set together"),
        ("tls_key = '/k'", "tls_key", "tls_cert and tls_key must be set together"),
        ("tls_key = 'k'", "tls_key", "must be an absolute path"),
        ("max_streams = 0", "max_streams", "must be at least 1"),
    ],
)
def test_a_mistake_about_where_it_listens_is_refused(file: Any, server: str, key: str, reason: str) -> None:
    """The one line names the key and says what it must be."""
    (found,) = refusal(file(f"[server]\n{server}\n"))
    assert f": server.{key}: " in found
    assert reason in found


# Tokens


@pytest.mark.parametrize(
    ("wrong", "key", "reason"),
    [
        (
            f"hash = '{HASH[:-1]}'",
            "hash",
            "must be shellrunner1: and 64 hex digits: `shellrunner token create NAME` ",
        ),
        (f'hash = "{HASH}\\n"', "hash", "must be shellrunner1: and 64 hex digits"),
        (f"hash = '{DIGITS}'", "hash", "must be shellrunner1: and 64 hex digits"),
        (f"hash = 'shellrunner2:{DIGITS}'", "hash", "must be shellrunner1: and 64 hex digits"),
        ("hash = 'srt_secret'", "hash", "must be shellrunner1: and 64 hex digits"),
        ("hash = 1", "hash", "must be a string"),
        ("name = 'a b'", "name", "must be 1 to 63 letters"),
        ("name = ''", "name", "must be 1 to 63 letters"),
        ("scopes = []", "scopes", "must not be empty"),
        ("scopes = ['write']", "scopes.0", "must be 'read', 'run' or 'admin'"),
        ("scopes = 'read'", "scopes", "must be a list"),
        ("expires = 2027-01-01T00:00:00", "expires", "must be a time with its offset from UTC"),
        ("expires = 2027-01-01", "expires", "must be a time with its offset from UTC"),
        ("expires = 1800000000", "expires", "must be a time with its offset from UTC"),
        ("expires = 'tomorrow'", "expires", "must be a time with its offset from UTC"),
        ("run_as = ''", "run_as", "must not be empty"),
        ("run_as = 'no-such-user'", "run_as", "no such user: 'no-such-user'"),
        ("commands = []", "commands", "must not be empty"),
        ("commands = [{}]", "commands.0", "must have exactly one of command, argv and prefix"),
        (
            "commands = [{ command = 'a', prefix = ['a'] }]",
            "commands.0",
            "must have exactly one of command, argv and prefix",
        ),
        ("commands = [{ prefix = [] }]", "commands.0.prefix", "must not be empty"),
        ("commands = [{ argv = [''] }]", "commands.0", "must not be empty"),
        ("commands = [{ argv = ['a'], cwd = ['b'] }]", "commands.0.cwd.0", "must be an absolute path"),
        ("commands = [{ argv = ['a'], options = ['all'] }]", "commands.0.options.0", "must be 'stdin', 'tty', "),
        (
            "commands = [{ arg = ['srt_secret'], prefix = ['a'] }]",
            "commands.0.arg",
            "unknown key, did you mean argv?",
        ),
        ("scope = ['srt_secret']", "scope", "unknown key, did you mean scopes?"),
    ],
)
@pytest.mark.parametrize("is_apart", [False, True], ids=["config.toml", "tokens_file"])
def test_a_mistake_in_a_token_is_refused_with_its_line(
    file: Any, is_apart: bool, wrong: str, key: str, reason: str
) -> None:
    """The error is one line with the place and without the value, which may be the token itself."""
    right = [line for line in TOKEN.splitlines()[1:] if line.split()[0] != wrong.split(maxsplit=1)[0]]
    path = file("\n".join([OTHER, "[[auth.tokens]]", wrong, *right]))
    (found,) = refusal(auth={"tokens_file": str(path)}) if is_apart else refusal(path)
    assert found.startswith(f"{path}, line 7: auth.tokens.1.{key}: ")
    assert reason in found
    assert "srt_secret" not in found


def test_what_a_token_lacks_is_reported(file: Any) -> None:
    """Name, hash and scopes have no default."""
    path = file("[[auth.tokens]]\n")
    assert refusal(path) == [f"{path}, line 1: auth.tokens.0.{key}: is missing" for key in ("name", "hash", "scopes")]


def test_a_token_may_have_expired(file: Any) -> None:
    """A time that has passed is valid, but the token has expired from then on; offsets are kept."""
    (token,) = load(file(f"{TOKEN}expires = 2020-01-01T01:00:00+01:00\n")).auth.tokens
    assert token.expires == datetime(2020, 1, 1, tzinfo=UTC)
    assert token.is_expired(datetime(2020, 1, 1, tzinfo=UTC))
    assert not token.is_expired(datetime(2019, 12, 31, 23, 59, 59, tzinfo=UTC))


def test_a_hash_is_the_same_in_capital_letters(file: Any) -> None:
    """Two hashes that differ only in capital letters are the same token."""
    (token,) = load(file(TOKEN.replace(DIGITS, DIGITS.upper()))).auth.tokens
    assert token.hash == HASH
    path = file(TOKEN + TOKEN.replace(DIGITS, DIGITS.upper()).replace("'ci'", "'other'"))
    assert refusal(path) == [f"{path}, line 1: auth.tokens: 'ci' and 'other' have the same hash"]


def plain(text: str) -> str:
    """Return the SHA-256 of a text, as every other program makes it."""
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    "placeholder",
    [
        *(PREFIX + digit * 64 for digit in "0af"), PREFIX + "ab" * 32, PREFIX + "0123456789abcdef" * 4,
        *(hash_secret(sample) for sample in ("", "test", "secret", "changeme")),
        *(PREFIX + plain(sample) for sample in ("", "test", "secret", "changeme")),
    ],
)  # fmt: skip
def test_a_placeholder_is_refused(file: Any, placeholder: str) -> None:
    """Digits that no hash has, and the hash of a sample, are refused with the command that makes a token."""
    path = file(TOKEN.replace(HASH, placeholder))
    (found,) = refusal(path)
    assert found.startswith(f"{path}, line 3: auth.tokens.0.hash: is a placeholder, or the hash of a sample: ")
    assert "`shellrunner token create NAME`" in found


@pytest.mark.parametrize("more", ["", f"hash = '{HASH}'"], ids=["alone", "beside the hash"])
def test_a_plain_sha256_is_refused(file: Any, more: str) -> None:
    """A hash that any program makes is refused, whatever it is of, with the command that makes a token."""
    path = file(f"[[auth.tokens]]\nname = 'ci'\nsha256 = '{plain('test')}'\n{more}\nscopes = ['read']\n")
    (found,) = refusal(path)
    assert found.startswith(f"{path}, line 1: auth.tokens.0: has a plain SHA-256")
    assert "`shellrunner token create NAME`" in found


def test_tokens_can_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens in the environment are JSON, in which times are strings."""
    token = {"name": "ci", "hash": HASH, "scopes": ["run"], "expires": "2027-01-01T00:00:00Z"}
    monkeypatch.setenv("SHELLRUNNER_AUTH__TOKENS", json.dumps([token]))
    assert load().auth.tokens[0].expires == datetime(2027, 1, 1, tzinfo=UTC)


def test_token_names_are_unique(file: Any) -> None:
    """Two tokens with one name are refused: they could not be distinguished in the log."""
    path = file(TOKEN + OTHER.replace("'other'", "'ci'"))
    assert refusal(path) == [f"{path}, line 1: auth.tokens: two tokens have the name 'ci'"]


def test_an_odd_auth_is_refused(file: Any) -> None:
    """An `auth` that is not a table is refused."""
    path = file("auth = 1\n")
    assert refusal(path) == [f"{path}, line 1: auth: must be a table"]


# Files with tokens


def test_the_tokens_file_adds_to_those_of_the_config(file: Any) -> None:
    """Tokens of both files are valid."""
    more = file(OTHER, "tokens.toml")
    path = file(f"[auth]\nsession_cookie = true\ntokens_file = '{more}'\n{TOKEN}")
    auth = load(path).auth
    assert [token.name for token in auth.tokens] == ["ci", "other"]
    assert auth.session_cookie


def test_systemds_credential_is_the_tokens_file(file: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The default is $CREDENTIALS_DIRECTORY/tokens if it exists; the setting overrides it."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert load().auth.tokens_file is None
    file(TOKEN, "tokens", 0o440)
    assert [token.name for token in load().auth.tokens] == ["ci"]
    named = load(auth={"tokens_file": str(file(OTHER, "named"))})
    assert [token.name for token in named.auth.tokens] == ["other"]
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", os.path.relpath(tmp_path))
    assert load().auth.tokens == []


@pytest.mark.parametrize(("second", "words"), [(TOKEN, "two tokens have the name 'ci'"),
    (OTHER.replace(hash_of("other"), HASH), "'ci' and 'other' have the same hash")])  # fmt: skip
def test_a_token_is_in_one_file_only(file: Any, second: Any, words: str) -> None:
    """A token that is in both files is refused: which of the two would apply is ambiguous."""
    more = file(f"\n{second}", "tokens.toml")
    path = file(f"[auth]\ntokens_file = '{more}'\n{TOKEN}")
    assert refusal(path) == [f"{more}, line 2: auth.tokens: {words}"]


def test_the_tokens_file_has_nothing_else(file: Any) -> None:
    """Any other setting in the tokens file is refused, since it would be ignored."""
    more = file(f"[auth]\nsession_cookie = true\n{TOKEN}[server]\nport = 1\n", "tokens.toml")
    assert refusal(auth={"tokens_file": str(more)}) == [
        f"{more}, line 2: auth.session_cookie: unknown key",
        f"{more}, line 7: server: unknown key",
    ]


def test_a_tokens_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """A missing tokens file is the only error that is reported."""
    path = tmp_path / "tokens"
    open_to_all = {"host": "0.0.0.0"}
    assert refusal(auth={"tokens_file": str(path)}, server=open_to_all) == [
        f"{path}: cannot be read: No such file or directory"
    ]


def test_a_pipe_as_tokens_file_is_refused(tmp_path: Path) -> None:
    """A pipe would be empty at the next reload, or block it for ever."""
    path = tmp_path / "tokens"
    os.mkfifo(path, 0o600)
    assert refusal(auth={"tokens_file": str(path)}) == [
        f"{path}: must be a regular file: a pipe cannot be read again at SIGHUP"
    ]


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o601, 0o620, 0o644, 0o666])
@pytest.mark.parametrize("is_apart", [False, True], ids=["config.toml", "tokens_file"])
def test_a_file_with_tokens_that_others_can_read_or_change_is_refused(file: Any, is_apart: bool, mode: int) -> None:
    """Who could change it could run commands: its group may read it, only its owner may change it."""
    path = file(TOKEN, mode=mode)
    (found,) = refusal(auth={"tokens_file": str(path)}) if is_apart else refusal(path)
    assert found == f"{path}: contains tokens, but other users can read or change it: chmod g-w,o= {path}"
    path.chmod(0o640)
    assert load(auth={"tokens_file": str(path)} if is_apart else {}, path=None if is_apart else path).auth.tokens


def test_a_file_without_tokens_may_be_read_by_all(file: Any) -> None:
    """config.toml without tokens may be readable by all users."""
    assert load(file("[auth]\nsession_cookie = true\n", mode=0o644)).auth.session_cookie


@as_root
def test_a_file_with_tokens_of_another_user_is_refused(file: Any) -> None:
    """The owner could add a token, so the file must belong to the service's user or to root."""
    path = file(TOKEN)
    os.chown(path, NOBODY.pw_uid, -1)
    assert refusal(path) == [f"{path}: contains tokens, but belongs to another user (uid {NOBODY.pw_uid})"]


@pytest.mark.heavy
@as_root
def test_run_as_needs_root(file: Any, tmp_path: Path) -> None:
    """A service that does not run as root can run commands as its own user only."""
    code = (
        "import os, sys; from shellrunner.config import load; from shellrunner.errors import ConfigError\n"
        f"os.setuid({NOBODY.pw_uid})\n"
        "try: load(auth={'tokens': eval(sys.argv[1])}); print('taken')\n"
        "except ConfigError as error: print(error.detail)"
    )

    def message(user: Any) -> Any:
        token = {"name": "ci", "hash": HASH, "scopes": ["run"], "run_as": user}
        done = subprocess.run([sys.executable, "-c", code, repr([token])], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    assert message("root").endswith(": auth.tokens.0.run_as: requires a service that runs as root")
    assert message(NOBODY.pw_name) == "taken"


def test_a_service_that_runs_may_not_lose_what_its_address_needs(file: Any) -> None:
    """A new `auth` is applied only if the addresses that are listened on are allowed with it."""
    running = load(file(f"[server]\nhost = '0.0.0.0'\n{TOKEN}"))
    assert with_auth(running, load(file(OTHER)).auth).auth.tokens[0].name == "other"
    with pytest.raises(ConfigError, match=r"^server\.host: must be localhost"):
        with_auth(running, AuthSettings())
