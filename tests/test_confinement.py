"""Profiles in the configuration: what is refused at the start, how paths are mounted, and who imposes one."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from shellrunner.access import Identity, command_rules, job_policy
from shellrunner.config import Settings, load
from shellrunner.config.profiles import Profile
from shellrunner.errors import CommandNotAllowed, ConfigError, InvalidJob
from shellrunner.model import JobSpec
from shellrunner.service import profile_check
from shellrunner.supervisor import confinement
from shellrunner.supervisor.confinement import Confinement, UnknownProfile, bubblewrap_arguments
from shellrunner.supervisor.users import UserAccount
from tests.support.tokens import hash_of

ACCOUNT = UserAccount(None, {"HOME": "/"}, "/")
needs_bubblewrap = pytest.mark.skipif(not shutil.which("bwrap") and "CI" not in os.environ, reason="needs bubblewrap")


@pytest.mark.parametrize(
    ("sections", "error"),
    [
        ({"profiles": {"p": {"network": True}}}, "profiles.p: network = true requires auth.tokens"),
        ({"queues": {"q": {"profile": "p"}}}, "queues.q: its profile does not exist: 'p'"),
        ({"profiles": {"p": {"hidden_paths": ["/"]}}}, "must be a path below /"),
        ({"profiles": {"p": {"writable_paths": ["/a/../b"]}}}, "must be a path below /"),
        ({"profiles": {"p": {"writable_paths": ["/proc/sys"]}}}, "must not be in /proc"),
        ({"profiles": {"p": {"system_calls": ["~mount", "read"]}}}, "must be a list of denied ones"),
        ({"profiles": {"p": {"system_calls": ["~@nope"]}}}, "@nope is not one of the groups"),
        ({"profiles": {"p": {"no_new_privileges": False}}}, "profiles.p.no_new_privileges"),
        ({"profiles": {"p": {"netwrok": True}}}, "did you mean network?"),
    ],
)
def test_an_impossible_profile_is_an_error_at_the_start(sections: dict[str, Any], error: str) -> None:
    """The error names the profile and the key."""
    with pytest.raises(ConfigError) as caught:
        load(**sections)
    assert error in caught.value.detail


def test_without_bubblewrap_no_service_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install."""
    monkeypatch.setattr(confinement, "_PATH", "/nope")
    with pytest.raises(ConfigError, match="install bubblewrap"):
        Confinement({"p": Profile()})
    Confinement({})


@needs_bubblewrap
def test_a_profile_that_cannot_be_applied_is_found_at_the_start(tmp_path: Path) -> None:
    """A missing path and a forbidden execve are reported in bubblewrap's words; own files cannot be shown."""
    profiles = {
        "sound": Profile(),
        "missing": Profile(writable_paths=[tmp_path / "nope"]),
        "unknown": Profile(system_calls=["read"]),
    }
    tried = Confinement(profiles)
    assert tried.check("sound", ACCOUNT) is None
    assert "Can't find source path" in (tried.check("missing", ACCOUNT) or "")
    assert tried.check("unknown", ACCOUNT)
    with pytest.raises(UnknownProfile, match="no such profile"):
        tried.sandbox("gone", ACCOUNT)
    with pytest.raises(ConfigError, match="only the service itself may use"):
        Confinement({"p": Profile(read_only_paths=[tmp_path / "x"])}, [str(tmp_path)])


def test_directories_between_a_writable_and_a_hidden_path_cannot_be_moved(tmp_path: Path) -> None:
    """Each of them is mounted, the outermost first; what is hidden in something hidden needs no mount."""
    inner = tmp_path / "a" / "b" / "secret"
    inner.mkdir(parents=True)
    profile = Profile(writable_paths=[tmp_path], hidden_paths=[inner], private_tmp=False)
    words = bubblewrap_arguments(profile, ACCOUNT, [str(inner / "own")])
    mounted = [words[number + 1] for number, word in enumerate(words) if word in ("--bind", "--tmpfs")]
    assert mounted == ["/run", str(tmp_path), str(tmp_path / "a"), str(tmp_path / "a/b"), str(inner)]
    assert words[-2:] == ["--remount-ro", str(inner)]


def _settings() -> Settings:
    token = {"name": "t", "hash": hash_of("t"), "scopes": ["run"]}
    queues = {"q": {"profile": "p"}, "r": {"profile": "other"}}
    return load(profiles={"p": {}, "other": {}}, queues=queues, auth={"tokens": [token]})


@pytest.mark.parametrize(
    ("of_token", "keys", "effective"),
    [
        (None, {}, None),
        (None, {"profile": "p"}, "p"),
        (None, {"queue": "q"}, "p"),
        ("p", {}, "p"),
        ("p", {"queue": "q", "profile": "p"}, "p"),
        ("p", {"profile": "other"}, "#/profile"),
        ("p", {"queue": "r"}, "#/queue"),
        (None, {"queue": "q", "profile": "other"}, "#/profile"),
        ("p", {"leave_children": True}, "#/leave_children"),
    ],
)
def test_a_job_has_the_profile_that_its_token_or_queue_imposes(
    of_token: str | None, keys: dict[str, Any], effective: str | None
) -> None:
    """It may name the same or, where none is imposed, its own; another one is refused."""
    settings = _settings()
    token = settings.auth.tokens[0].model_copy(update={"profile": of_token})
    identity = Identity("token:t", frozenset({"run"}), token)
    spec = JobSpec.model_validate({"command": "true", **keys})
    if effective and effective.startswith("#"):
        with pytest.raises(InvalidJob) as caught:
            job_policy.confine(identity, spec, settings)
        assert [error["pointer"] for error in caught.value.members["errors"]] == [effective]
    else:
        assert job_policy.confine(identity, spec, settings).profile == effective


def test_a_confined_token_controls_confined_jobs_only() -> None:
    """Input and signals for another's job, or for one of its own from before, would be a way around its profile."""
    token = _settings().auth.tokens[0].model_copy(update={"profile": "p"})
    identity = Identity("token:t", frozenset({"run"}), token)
    assert identity.is_restricted
    for check in (command_rules.check_stdin, command_rules.check_signal):
        check(identity, JobSpec(command="true", profile="p"))
        with pytest.raises(CommandNotAllowed):
            check(identity, JobSpec(command="true"))


def test_a_rule_names_the_option_to_choose_a_profile() -> None:
    """Under a profile of its choice, a client would have steps of an allowed script fail."""
    rule = {"command": "true"}
    given = {"name": "t", "hash": hash_of("t"), "scopes": ["run"], "commands": [rule]}
    token = load(auth={"tokens": [given]}).auth.tokens[0]
    spec = JobSpec(command="true", profile="p")
    with pytest.raises(CommandNotAllowed):
        command_rules.check_command(Identity("token:t", frozenset({"run"}), token), spec)
    imposed = token.model_copy(update={"profile": "p"})
    command_rules.check_command(Identity("token:t", frozenset({"run"}), imposed), spec)


def test_every_file_that_is_named_in_place_of_a_secret_is_hidden(tmp_path: Path) -> None:
    """A confined command sees none of them, whichever setting names it."""
    secret = tmp_path / "secret"
    contents = {
        "auth.tokens_file": "", "callbacks.secret_file": "whsec_" + "c2VjcmV0" * 5,
        "store.url_file": "postgresql://u:hunter2@host/db",
    }  # fmt: skip
    names = [
        f"{section}.{key}"
        for section, field in Settings.model_fields.items()
        for key in getattr(field.annotation, "model_fields", {})
        if key.endswith("_file")
    ]
    assert sorted(names) == sorted(contents)
    for name, content in contents.items():
        section, key = name.split(".")
        secret.write_text(content)
        secret.chmod(0o600)
        settings = load(None, **{section: {key: str(secret)}})
        assert secret in set(profile_check._files(settings)), name
