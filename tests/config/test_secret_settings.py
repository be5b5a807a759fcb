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


def _missing(path: Path) -> str:
    path.unlink()
    return "cannot be read: No such file or directory"


def _open_to_all(path: Path) -> str:
    path.chmod(0o644)
    return f"contains the secret of callbacks, {WRONG} {path}"


def _empty(path: Path) -> str:
    path.write_text("\n")
    return "is empty: expected the secret of callbacks"


def _other(path: Path) -> str:
    path.write_text(f"secret = '{SECRET}'")
    return "must be whsec_ followed by 24 to 64 random bytes in base64"


def _utf16(path: Path) -> str:
    path.write_bytes(SECRET.encode("utf-16"))
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
def test_an_unusable_file_is_refused(file: Any, spoil: Any) -> None:
    """The error names the file and the reason, and repeats nothing of it."""
    path = file(SECRET, "secret")
    expected = f"{path}: {spoil(path)}"
    with pytest.raises(ConfigError) as refused:
        load(callbacks={"hosts": ["example.org"], "secret_file": str(path)})
    assert expected in refused.value.detail.splitlines()
    assert "c2VjcmV0" not in refused.value.detail


def test_the_secret_is_in_one_place_only(file: Any) -> None:
    """A secret and a file with one are refused: which of the two would apply is ambiguous."""
    path = file(f"{CALLBACKS}secret_file = '{file(SECRET, 'secret')}'\n")
    assert refusal(path) == [f"{path}, line 4: callbacks.secret_file: must not be set together with callbacks.secret"]


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file away")
def test_a_file_of_another_user_is_refused(file: Any) -> None:
    """Its owner could change it."""
    path = file(SECRET, "secret")
    os.chown(path, 65534, -1)
    found = refusal(callbacks={"hosts": ["example.org"], "secret_file": str(path)})
    assert found == [f"{path}: contains the secret of callbacks, but belongs to another user (uid 65534)"]


# Credentials of systemd

NAMED = ["auth.tokens_file", "server.tls_key", "server.tls_cert", "callbacks.secret_file"]


@pytest.mark.parametrize("key", NAMED)
def test_a_plain_name_is_a_credential(key: str, file: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each setting of a file that may be secret takes the name of a credential, with the modes that systemd gives."""
    tmp_path.chmod(0o500)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    section, name = key.split(".")
    content = {"secret_file": SECRET}.get(name, "")
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
