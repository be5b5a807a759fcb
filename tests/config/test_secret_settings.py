"""Settings that are secrets, and the files that have them: each is private, and no error repeats its content."""

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from shellrunner.config import load
from shellrunner.errors import ConfigError
from tests.config.refusals import refusal

SECRET = "whsec_" + "c2VjcmV0" * 5
CALLBACKS = f"[callbacks]\nhosts = ['example.org']\nsecret = '{SECRET}'\n"
DATABASE = "postgresql://shellrunner:hunter2@[::1]:5432/jobs?sslmode=verify-full"
CONTENT = {"callbacks.secret_file": SECRET, "store.url_file": DATABASE}
NEEDED = {"callbacks.secret_file": {"hosts": ["example.org"]}}
WRONG = "but other users can read or change it: chmod g-w,o="


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o660, 0o602, 0o666, 0o601])
@pytest.mark.parametrize("text", [CALLBACKS, CALLBACKS.replace("hosts", "# hosts")], ids=["hosts", "no hosts"])
def test_a_config_with_the_secret_of_callbacks_is_private(file: Any, text: str, mode: int) -> None:
    """A file that others can read or change is refused, with the command that mends it, used or not."""
    path = file(text, mode=mode)
    assert refusal(path) == [f"{path}: contains the secret of callbacks, {WRONG} {path}"]
    os.chmod(path, stat.S_IMODE(os.stat(path).st_mode) & ~0o027)
    assert load(path).callbacks.secret == SECRET


def test_a_config_without_secrets_may_be_read_but_not_changed_by_all(file: Any) -> None:
    """Who can write the configuration chooses tokens and shells."""
    path = file("[callbacks]\nsecret = ''\n[jobs]\ntimeout = 5\n", mode=0o664)
    assert load(path).jobs.timeout == 5
    path.chmod(0o646)
    assert refusal(path) == [f"{path}: every user can change it: chmod o-w {path}"]


@pytest.mark.parametrize("text", ["callbacks = 'secret'\n", "[[callbacks]]\nsecret = 'x'\n"])
def test_an_odd_section_is_refused_as_such(file: Any, text: str) -> None:
    """A section that is no table is an error of its own, whatever the file's mode."""
    (found,) = refusal(file(text, mode=0o644))
    assert found.endswith("callbacks: must be a table")


# callbacks.secret_file


@pytest.mark.parametrize("content", [SECRET, f"{SECRET}\n", f"\ufeff{SECRET}\r\n", f"  {SECRET} \n\n"])
@pytest.mark.parametrize("mode", [0o600, 0o400, 0o440])
def test_a_file_has_the_secret(file: Any, content: str, mode: int) -> None:
    """What editors and echo add is ignored; the group may read it, as of a credential of systemd."""
    path = file(
        f"[callbacks]\nhosts = ['example.org']\nsecret_file = '{file(content, 'secret', mode)}'\n", mode=0o644
    )
    assert load(path).callbacks.secret == SECRET


@pytest.mark.parametrize("content", [DATABASE, f"{DATABASE}\n", f"\ufeff{DATABASE}\r\n"])
@pytest.mark.parametrize("mode", [0o600, 0o440])
def test_a_file_has_the_url_of_the_database(file: Any, content: str, mode: int) -> None:
    """So does `store.url_file`: the file that names it may be read by all."""
    path = file(f"[store]\nurl_file = '{file(content, 'url', mode)}'\n", mode=0o644)
    assert load(path).store.url == DATABASE


def _missing(path: Path) -> str:
    path.unlink()
    return "cannot be read: No such file or directory"


def _open_to_all(path: Path) -> str:
    path.chmod(0o644)
    return "contains the "


def _empty(path: Path) -> str:
    path.write_text("\n")
    return "is empty: expected"


def _other(path: Path) -> str:
    path.write_text(f"secret = '{path.read_text()}'")
    return "must be "


def _utf16(path: Path) -> str:
    path.write_bytes(path.read_text().encode("utf-16"))
    return "not UTF-8"


def _directory(path: Path) -> str:
    path.unlink()
    path.mkdir(mode=0o700)
    return "cannot be read: Is a directory"


def _pipe(path: Path) -> str:
    path.unlink()
    os.mkfifo(path, 0o600)
    return "must be a regular file: a pipe cannot be read again at SIGHUP"


@pytest.mark.parametrize("spoil", [_missing, _open_to_all, _empty, _other, _utf16, _directory, _pipe])
@pytest.mark.parametrize("key", ["callbacks.secret_file", "store.url_file"])
def test_an_unusable_file_is_refused(file: Any, key: str, spoil: Any) -> None:
    """The error names the file and the reason, and repeats nothing of it."""
    section, name = key.split(".")
    path = file(CONTENT[key], "secret")
    expected = f"{path}: {spoil(path)}"
    with pytest.raises(ConfigError) as refused:
        load(None, **{section: {**NEEDED.get(key, {}), name: str(path)}})
    assert [line for line in refused.value.detail.splitlines() if line.startswith(expected)]
    assert "c2VjcmV0" not in refused.value.detail
    assert "hunter2" not in refused.value.detail


@pytest.mark.parametrize(
    ("key", "what"), [("callbacks.secret_file", "secret of callbacks"), ("store.url_file", "URL of PostgreSQL")]
)
def test_the_error_says_what_is_in_the_file(file: Any, key: str, what: str) -> None:
    """What others can read, and what is missing, is named."""
    section, name = key.split(".")
    path = file("\n", "secret", 0o644)
    found = refusal(**{section: {**NEEDED.get(key, {}), name: str(path)}})
    assert f"{path}: contains the {what}, {WRONG} {path}" in found
    assert f"{path}: is empty: expected the {what}" in found


def test_the_secret_is_in_one_place_only(file: Any) -> None:
    """A secret and a file with one are refused: which of the two would apply is ambiguous."""
    path = file(f"{CALLBACKS}secret_file = '{file(SECRET, 'secret')}'\n")
    assert refusal(path) == [f"{path}, line 4: callbacks.secret_file: must not be set together with callbacks.secret"]


# store.url


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o602])
@pytest.mark.parametrize("url", [DATABASE, "postgresql://host/jobs?password=hunter2", "postgresql://user:hunter2@"])
def test_a_config_with_the_password_of_the_database_is_private(file: Any, url: str, mode: int) -> None:
    """A file that others can read or change is refused, with the command that mends it."""
    path = file(f"[store]\nurl = '{url}'\n", mode=mode)
    assert refusal(path) == [f"{path}: contains the password of PostgreSQL, {WRONG} {path}"]
    path.chmod(0o640)
    assert load(path).store.url == url


@pytest.mark.parametrize("url", ["postgresql://user@host:5432/jobs?sslmode=require", "postgresql:///jobs"])
def test_a_url_without_a_password_may_be_read_by_all(file: Any, url: str) -> None:
    """PostgreSQL knows the user by other means, or libpq has the password from a file of its own."""
    assert load(file(f"[store]\nurl = '{url}'\n", mode=0o644)).store.url == url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (DATABASE, "postgresql://shellrunner@[::1]:5432/jobs"),
        ("postgres://u:a:b@one:1,two/jobs?password=hunter2", "postgresql://u@one:1,two/jobs"),
        ("postgresql://%2Frun%2Fpostgresql/jobs", "postgresql://%2Frun%2Fpostgresql/jobs"),
        ("postgresql:///", "postgresql:///"),
        ("", ""),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    """Nor has it parameters, one of which may be a password; the settings are printed without it."""
    settings = load(store={"url": url})
    assert settings.store.database == shown
    assert "hunter2" not in repr(settings)


@pytest.mark.parametrize(
    "url",
    [
        "mysql://u:hunter2@host/db", "host=localhost password=hunter2", "postgresql:u:hunter2@host", "hunter2",
        # What is not encoded would be read as the host, port, database or a parameter.
        "postgresql://u:hunt/er2@host/db", "postgresql://u:12/hunter2@host/db", "postgresql://u:12?hunter2@host",
        "postgresql://u:hunter2@2@host/db", "postgresql://u:hunter2#@host/db", "postgresql://u:hunter2%@host/db",
        "postgresql://u:hunter2%00@host/db", "postgresql://u:hunter2 @host/db", "postgresql://u:hunter2@ho st/db",
        "postgresql://u:hunter2@host:port/db", "postgresql://u:hunter2@host/a/b", "postgresql://u:hunter2@host/db?a",
    ],
)  # fmt: skip
def test_what_is_no_url_of_postgresql_is_refused(file: Any, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """The error names the place and the form, and repeats nothing."""
    path = file(f"[store]\nurl = '{url}'\n")
    (found,) = refusal(path)
    assert found.startswith(f"{path}, line 2: store.url: must ")
    assert "postgresql://USER:PASSWORD@HOST:PORT/DATABASE" in found
    monkeypatch.setenv("SHELLRUNNER_STORE__URL", url)
    (variable,) = refusal()
    assert variable.startswith("environment variable SHELLRUNNER_STORE__URL: store.url: must ")
    assert "hunter2" not in found + variable


def test_the_url_is_in_one_place_only(file: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL and a file with one are refused, wherever they come from."""
    path = file(f"[store]\nurl_file = '{file(DATABASE, 'url')}'\n")
    assert load(path).store.url == DATABASE
    monkeypatch.setenv("SHELLRUNNER_STORE__URL", DATABASE)
    assert refusal(path) == [f"{path}, line 2: store.url_file: must not be set together with store.url"]


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file away")
def test_a_file_of_another_user_is_refused(file: Any) -> None:
    """Its owner could change it."""
    path = file(SECRET, "secret")
    os.chown(path, 65534, -1)
    found = refusal(callbacks={"hosts": ["example.org"], "secret_file": str(path)})
    assert found == [f"{path}: contains the secret of callbacks, but belongs to another user (uid 65534)"]


# Credentials of systemd

NAMED = ["auth.tokens_file", "server.tls_key", "server.tls_cert", "callbacks.secret_file", "store.url_file"]


@pytest.mark.parametrize("key", NAMED)
def test_a_plain_name_is_a_credential(key: str, file: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each setting of a file that may be secret takes the name of a credential, with the modes that systemd gives."""
    tmp_path.chmod(0o500)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    section, name = key.split(".")
    content = CONTENT.get(key, "")
    others = {"tls_key": {"tls_cert": "/c"}, "tls_cert": {"tls_key": "/k"}}.get(name, {})
    path = file(content, "my-credential", 0o440)
    settings = load(None, **{section: {name: "my-credential", **others}}).model_dump()
    assert settings[section][name] == path


@pytest.mark.parametrize("key", NAMED)
@pytest.mark.parametrize("value", ["missing", "a/b", "..", ".", ""])
def test_other_relative_paths_are_refused(
    key: str, value: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without a directory of credentials a name is refused with what it needs; a relative path always is."""
    section, name = key.split(".")
    if value != "missing":
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    others = {"tls_key": {"tls_cert": "/c"}, "tls_cert": {"tls_key": "/k"}}.get(name, {})
    found = refusal(**{section: {name: value, **others}})
    assert "must be an absolute path" in found[0]
    assert ("LoadCredential=missing:PATH" in found[0]) == (value == "missing")
