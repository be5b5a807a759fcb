"""The settings: what is shipped, what goes before what, and how a mistake is refused."""

import json
import os
import pwd
import re
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shellrunner.config import QueueSettings, Settings, load
from shellrunner.config.token_hash import check_hash, is_secret
from tests.config.refusals import refusal
from tests.support.tokens import hash_of

WEBHOOK_SECRET = f"whsec_{'c2VjcmV0' * 4}"
DATABASE = "postgresql://shellrunner:hunter2@[::1]:5432/jobs?sslmode=verify-full"
TOKEN = {"name": "ci", "hash": hash_of("ci"), "scopes": ["read"]}
# What another setting is worth nothing without.
REQUIRED = {
    "callbacks.hosts": ["callbacks.secret"], "server.cors_origins": ["auth.tokens"],
    "server.tls_cert": ["server.tls_key"], "server.tls_key": ["server.tls_cert"],
}  # fmt: skip
SHIPPED = Path(__file__).parents[2] / "config.toml"
KEYS = [
    f"{section}.{key}"
    for section, field in Settings.model_fields.items()
    for key in getattr(field.annotation, "model_fields", {})
]


def test_the_shipped_file_says_what_is_the_default_anyway() -> None:
    """Settings loaded from the shipped config.toml equal the defaults."""
    assert load(SHIPPED).model_dump() == load().model_dump()


@pytest.mark.parametrize("key", KEYS)
def test_every_setting_is_in_the_shipped_file(key: Any) -> None:
    """Each setting has a line in its section of config.toml, or is a table or a list of tables there."""
    section, name = key.split(".")
    lines = SHIPPED.read_text().split(f"[{section}]")[1]
    own = re.split(r"^\[(?!\w+\.)", lines, maxsplit=1, flags=re.MULTILINE)[0]
    assert re.search(rf"^(# )?{name} = |^(#   \[)?\[{section}\.{name}\]", own, re.MULTILINE)


@pytest.mark.parametrize("name", QueueSettings.model_fields)
def test_every_setting_of_a_queue_is_in_the_shipped_file(name: Any) -> None:
    """The default queue has each setting in config.toml, with its default."""
    text = re.sub("^# (?=profile = )", "", SHIPPED.read_text(), flags=re.MULTILINE)
    assert tomllib.loads(text)["queues"]["default"][name] == ("untrusted" if name == "profile" else 0)


def test_a_queue_more_leaves_the_default_one(file: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Queues of the file and of the environment are added to `default`, which need not be named."""
    monkeypatch.setenv("SHELLRUNNER_QUEUES__SLOW", '{"max_running": 1}')
    queues = load(file("[queues.backups]\nmax_running = 2\nmax_queued = 0\n")).queues
    assert queues == {
        "default": QueueSettings(),
        "slow": QueueSettings(max_running=1),
        "backups": QueueSettings(max_running=2),
    }


def test_what_is_commented_out_in_the_shipped_file_could_be_used(file: Any) -> None:
    """Each commented setting of config.toml is one that is accepted as it stands."""
    text = re.sub(
        r"^# (?=\w+ = )(?!shell = |(tokens|secret|url)_file = )", "", SHIPPED.read_text(), flags=re.MULTILINE
    )
    path = file(re.sub(r"^#   ", "", text, flags=re.MULTILINE).replace("alice", pwd.getpwuid(os.geteuid()).pw_name))
    path.chmod(0o600)
    (found,) = refusal(path)  # but for a token that anybody could read there
    assert "auth.tokens.0.hash: must be shellrunner1: and 64 hex digits: `shellrunner token create NAME`" in found
    path.write_text(path.read_text().replace("shellrunner1:…", hash_of("ci")))
    settings = load(path)
    assert settings.supervisor.max_running == 8
    assert settings.store.state_dir == Path("/var/lib/shellrunner")
    assert len(settings.jobs.environment) == 6
    assert settings.server.tls_key == Path("/etc/shellrunner/key.pem")
    (token,) = settings.auth.tokens
    assert (token.name, token.scopes, token.expires) == ("ci", ["read", "run"], datetime(2027, 1, 1, tzinfo=UTC))
    assert token.hash == hash_of("ci")
    assert [rule.prefix for rule in token.commands or ()] == [None, ["git", "-C", "/srv/site", "pull"]]


def test_no_sample_can_be_used() -> None:
    """No text that is shipped has a hash, or a token, that the service would accept."""
    root = SHIPPED.parent
    texts = [root / name for name in ("README.md", "SECURITY.md", "CONTRIBUTING.md", "config.toml")]
    texts += [path for path in (*root.glob("docs/**/*"), *root.glob("man/*")) if path.suffix not in (".png", "")]
    samples = 0
    for path in texts:
        text = path.read_text()
        assert re.findall(r"\b[0-9a-fA-F]{64}\b", text) == [], path
        assert [word for word in re.findall(r"[\w-]+", text) if is_secret(word)] == [], path
        for sample in re.findall(r"""\bhash["']? *[=:] *["']([^"']*)["']""", text):
            samples += 1
            with pytest.raises(ValueError, match="shellrunner token create"):
                check_hash(sample)
    assert samples >= 3


def test_the_command_line_goes_before_the_environment_before_the_file(
    file: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each source replaces only the keys that it gives."""
    path = file("[server]\nhost = '::1'\nport = 1\n[supervisor]\nmax_running = 1\non_stop = 'drain'\n")
    monkeypatch.setenv("SHELLRUNNER_SERVER__PORT", "2")
    monkeypatch.setenv("SHELLRUNNER_SUPERVISOR__MAX_RUNNING", "2")
    settings = load(path, server={"port": 3})
    assert (settings.server.host, settings.server.port) == ("::1", 3)
    assert (settings.supervisor.max_running, settings.supervisor.on_stop) == (2, "drain")


def test_defaults_follow_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """`max_running` follows the usable cores; the directory and variables follow the user."""
    user = pwd.getpwuid(os.geteuid())
    monkeypatch.delenv("HOME", raising=False)
    settings = load()
    assert settings.supervisor.max_running == max(8, 4 * len(os.sched_getaffinity(0)))
    environment, cwd = settings.jobs.process_defaults(user)
    assert environment.items() >= {"HOME": user.pw_dir, "USER": user.pw_name, "LANG": "C.UTF-8"}.items()
    assert environment.keys() == {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG"}
    assert cwd == (user.pw_dir if Path(user.pw_dir).is_dir() else "/")
    assert settings.jobs.timeout is None
    assert settings.store.state_dir == Path(user.pw_dir, ".local/state/shellrunner")


def test_the_state_directory_is_systemds_else_xdgs(monkeypatch: pytest.MonkeyPatch) -> None:
    """$STATE_DIRECTORY goes first (and of several its first), then $XDG_STATE_HOME unless it is relative."""
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert load().store.state_dir == Path("/home/somebody/.local/state/shellrunner")
    monkeypatch.setenv("XDG_STATE_HOME", "/xdg")
    assert load().store.state_dir == Path("/xdg/shellrunner")
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/a:/var/lib/b")
    assert load().store.state_dir == Path("/var/lib/a")


@pytest.mark.parametrize(
    ("host", "name"),
    [("web-1.example.org", "web-1.example.org"), ("a b_ä", "a-b_-"), ("x" * 64, "x" * 63), ("", "localhost")],
)
def test_a_node_has_the_hosts_name(monkeypatch: pytest.MonkeyPatch, host: str, name: str) -> None:
    """A host's name of any form becomes one that a node can have."""
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", host, "6", "1", "x86_64")))
    assert load().worker.name == name
    assert load(worker={"name": "other"}).worker.name == "other"


def test_variables_are_merged_over_those_shipped(file: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable from the file and one from the environment are added to the shipped ones."""
    monkeypatch.setenv("SHELLRUNNER_JOBS__ENVIRONMENT", '{"LANG": "uk_UA.UTF-8", "Ключ": "значение"}')
    jobs = load(file("[jobs.environment]\nLANG = 'C'\nEDITOR = 'ed'\n")).jobs
    environment, _ = jobs.process_defaults(pwd.getpwuid(os.geteuid()))
    assert environment["LANG"] == "uk_UA.UTF-8"
    assert (environment["EDITOR"], environment["Ключ"]) == ("ed", "значение")
    assert "PATH" in environment


def test_a_command_of_another_user_gets_its_environment() -> None:
    """HOME, names, shell and directory are those of the command's user, unless the configuration sets them."""
    somebody = pwd.struct_passwd(("somebody", "x", 7, 7, "", "/usr", "/bin/bash"))
    environment, cwd = load(jobs={"environment": {"LOGNAME": "all"}}).jobs.process_defaults(somebody)
    assert (environment["HOME"], environment["USER"], environment["SHELL"], cwd) == (
        "/usr", "somebody", "/bin/bash", "/usr",
    )  # fmt: skip
    assert environment["LOGNAME"] == "all"
    assert load(jobs={"cwd": "/tmp"}).jobs.process_defaults(somebody).cwd == "/tmp"
    nowhere = pwd.struct_passwd(("nobody", "x", 8, 8, "", "/nonexistent", "/usr/sbin/nologin"))
    environment, cwd = load().jobs.process_defaults(nowhere)
    assert (environment["HOME"], environment["SHELL"], cwd) == ("/nonexistent", "/bin/sh", "/")
    with pytest.raises(ValueError, match="must be valid UTF-8"):
        load().jobs.process_defaults(pwd.struct_passwd(("other", "x", 9, 9, "", "/home/\udcff", "/bin/sh")))


def test_zero_is_no_limit(file: Any) -> None:
    """A retention or timeout of 0 never reaches the rest of the program as a number."""
    text = "[store]\nretention_days = 0\nretention_jobs = 0\nretention_bytes = 0\n[jobs]\ntimeout = 0\n"
    text += "[supervisor]\nmax_queued = 0\n[cluster]\nlost_after = 0\n"
    settings = load(file(text))
    store = settings.store
    assert (store.retention_days, store.retention_jobs, store.retention_bytes) == (None, None, None)
    assert settings.jobs.timeout is None
    assert settings.supervisor.max_queued is None
    assert settings.cluster.lost_after is None


def test_settings_cannot_be_changed() -> None:
    """Neither a section nor a value can be replaced."""
    settings = load()
    with pytest.raises(ValueError, match="frozen"):
        settings.server.port = 1  # type: ignore[misc]
    with pytest.raises(ValueError, match="frozen"):
        settings.log = settings.log  # type: ignore[misc]


def _as_variable(value: Any) -> Any:
    return value if isinstance(value, str) else json.dumps(value)


@pytest.mark.parametrize("key", [key for key in KEYS if key != "jobs.environment"])
def test_every_setting_can_come_from_the_environment(key: Any, file: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """SHELLRUNNER_SECTION__KEY sets the same as the key in the file."""
    section, name = key.split(".")
    private = file("")
    private.chmod(0o600)
    others = {
        "server.host": "::1", "server.listen": ["unix:/run/x"], "server.socket_mode": "0660", "server.names": ["a"],
        "server.origins": ["https://a"], "server.cors_origins": ["https://b"], "server.proxies": ["10.0.0.0/8"],
        "server.tls_cert": "/c", "server.tls_key": "/k", "auth.tokens_file": str(private), "auth.tokens": [TOKEN],
        "auth.session_cookie": True, "supervisor.on_stop": "drain", "jobs.shell": ["/bin/bash", "-c"],
        "jobs.cwd": "/tmp", "jobs.leave_children": True, "store.state_dir": "/srv", "log.level": "debug",
        "log.format": "text", "store.url": DATABASE, "store.url_file": str(file(DATABASE, "url")),
        "store.delivery": "table", "worker.name": "a", "worker.queues": ["b"], "worker.listen": ["unix:/run/y"],
        "audit.file": "/a", "audit.reads": True,
        "callbacks.hosts": ["example.org"], "callbacks.networks": ["10.0.0.0/8"],
        "callbacks.secret": WEBHOOK_SECRET, "callbacks.secret_file": str(file(WEBHOOK_SECRET, "secret")),
    }  # fmt: skip
    value = others.get(key, 77)
    for needed in REQUIRED.get(key, ()):
        monkeypatch.setenv(f"SHELLRUNNER_{needed}".upper().replace(".", "__"), _as_variable(others[needed]))
    monkeypatch.setenv(f"SHELLRUNNER_{section}__{name}".upper(), _as_variable(value))
    found = load().model_dump(mode="json", exclude_defaults=True)[section][name]
    assert found == value


@pytest.mark.parametrize(
    ("text", "line", "key", "reason"),
    [
        ("[server]\nhost = 'here'", 2, "server.host", "must be localhost or an IP address"),
        ("[server]\nhost = '0.0.0.0'", 2, "server.host", "must be localhost, a loopback address or a Unix socket"),
        ("[server]\n\n\nport = '8000'", 4, "server.port", "must be a whole number"),
        ("[server]\nport = 65536", 2, "server.port", "must be at most 65535"),
        ("[server]\nport = true", 2, "server.port", "must be a whole number"),
        ("server = 1", 1, "server", "must be a table"),
        ("server.prt = 1", 1, "server.prt", "unknown key, did you mean port?"),
        ("# x\n[servers]\na = 1", 2, "servers", "unknown key, did you mean server?"),
        ("[jobs]\nshell = [\n '/bin/sh',\n 3,\n]", 2, "jobs.shell.1", "must be a string"),
        ("[jobs]\nshell = []", 2, "jobs.shell", "must begin with the absolute path of a shell"),
        ("[jobs]\nshell = ['sh', '-c']", 2, "jobs.shell", "must begin with the absolute path of a shell"),
        ("[jobs]\nkill_grace = -1", 2, "jobs.kill_grace", "must be at least 0"),
        ("[jobs]\nkill_grace = nan", 2, "jobs.kill_grace", "must be a finite number"),
        ("[jobs]\nleave_children = 1", 2, "jobs.leave_children", "must be true or false"),
        ("[jobs]\ncwd = 'here'", 2, "jobs.cwd", "must be an absolute path"),
        ("[jobs]\noutput_bytes = 0", 2, "jobs.output_bytes", "must be at least 1"),
        ("[jobs.environment]\nA = 'a'\nB = 2", 3, "jobs.environment.B", "must be a string"),
        ("[jobs]\nenvironment = {'A=B' = 'x'}", 2, "jobs.environment", "is not a valid variable name"),
        ("[jobs.environment]\nSHELLRUNNER_JOB = 'x'", 1, "jobs.environment", "is set by the service for each job"),
        ("[store]\nretention_jobs = 1.5", 2, "store.retention_jobs", "must be a whole number"),
        ("[log]\nlevel = 'loud'", 2, "log.level", "must be 'debug', 'info', 'warning' or 'error'"),
        ("[queues.a]\nmax_running = -1", 2, "queues.a.max_running", "must be at least 0"),
        ("[queues.a]\nrunning = 1", 2, "queues.a.running", "unknown key"),
        ("[queues.'.']\nmax_running = 1", 1, "queues..", "must not be '.', '..'"),
        ("[queues]\n'..' = {}", 2, "queues...", "must not be '.', '..'"),
        ("[queues]\n\n'a b' = {}", 3, "queues.a b", "must be 1 to 63 letters"),
        ("[callbacks]\n\nhosts = ['a']", 3, "callbacks.hosts", "requires callbacks.secret"),
        ("[callbacks]\nnetworks = ['10.0.0.1/8']", 2, "callbacks.networks.0", "the network is 10.0.0.0/8"),
        ("[worker]\nname = 'a b'", 2, "worker.name", "must be 1 to 63 letters, digits, dots, dashes or underscores"),
        ("[worker]\nname = ''", 2, "worker.name", "must be 1 to 63 letters, digits, dots, dashes or underscores"),
        ("[worker]\nqueues = ['']", 2, "worker.queues.0", "must be 1 to 63 letters"),
        ("[cluster]\nlost_after = -1", 2, "cluster.lost_after", "must be at least 0"),
        ("[store]\ndelivery = 'smoke'", 2, "store.delivery", "must be 'pgqueuer' or 'table'"),
        ("[supervisor]\non_stop = 'stop'", 2, "supervisor.on_stop", "must be 'keep', 'drain' or 'cancel'"),
    ],
)
def test_a_mistake_in_the_file_is_refused_with_file_line_key_and_reason(
    file: Any, text: str, line: int, key: str, reason: str
) -> None:
    """Each error is one line with the place and the reason."""
    path = file(text)
    (found,) = refusal(path)
    assert found.startswith(f"{path}, line {line}: {key}: ")
    assert reason in found


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("SHELLRUNNER_SERVER__PORT", "many", "server.port: must be a whole number"),
        ("SHELLRUNNER_SERVER__PORT", "", "server.port: must be a whole number"),
        ("SHELLRUNNER_JOBS__SHELL", "/bin/sh", "jobs.shell: must be a list"),
        ("SHELLRUNNER_SERVER__PROT", "1", "server.prot: unknown key, did you mean port?"),
        ("SHELLRUNNER_SEVER__PORT", "1", "sever: unknown key, did you mean server?"),
        ("SHELLRUNNER_JOBS__ENVIRONMENT__A", "1", "jobs.environment__a: unknown key"),
        ("SHELLRUNNER_SERVER__PORT", "true", "server.port: must be a whole number"),
        ("SHELLRUNNER_LOG", "debug", "log: must be a table"),
        ("SHELLRUNNER_SERVER", "[1]", "server: must be a table"),
        ("SHELLRUNNER_CALLBACKS__HOSTS", '["a"]', "callbacks.hosts: requires callbacks.secret"),
        ("SHELLRUNNER_CALLBACKS", '{"hosts": ["a"]}', "callbacks.hosts: requires callbacks.secret"),
    ],
)
def test_a_mistake_in_the_environment_is_refused_with_the_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, reason: str
) -> None:
    """A misspelt or invalid variable is never ignored."""
    monkeypatch.setenv(variable, value)
    (found,) = refusal()
    assert found.startswith(f"environment variable {variable}: {reason}")


@pytest.mark.parametrize("overrides", [{}, {"server": {"port": 1}}])
def test_a_section_that_is_no_table_is_refused_where_it_is_set(
    file: Any, monkeypatch: pytest.MonkeyPatch, overrides: Any
) -> None:
    """An option or a variable for a key of the same section is not blamed for it."""
    path = file("server = 5")
    assert refusal(path, **overrides) == [f"{path}, line 1: server: must be a table"]
    monkeypatch.setenv("SHELLRUNNER_SERVER__HOST", "localhost")
    assert refusal(path, **overrides) == [f"{path}, line 1: server: must be a table"]
    monkeypatch.setenv("SHELLRUNNER_SERVER", "http://localhost:8000")
    assert refusal(**overrides) == ["environment variable SHELLRUNNER_SERVER: server: must be a table"]


def test_what_only_looks_like_a_setting_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables of jobs and of the client are ignored."""
    for name in ("JOB", "JOB_ID", "URL", "TOKEN"):
        monkeypatch.setenv(f"SHELLRUNNER_{name}", "x")
    assert load().model_dump()


def test_a_mistake_in_a_default_is_refused_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative $STATE_DIRECTORY is refused."""
    monkeypatch.setenv("STATE_DIRECTORY", "relative")
    assert refusal() == ["default: store.state_dir: must be an absolute path"]


def test_all_mistakes_are_reported_at_once_and_no_value(file: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each error has its line, and none repeats the value: it may be a secret."""
    monkeypatch.setenv("SHELLRUNNER_LOG__LEVEL", "hunter2")
    lines = refusal(file("[server]\nport = 'hunter2'\n[typo]\nx = 'hunter2'"), server={"host": "hunter2"})
    assert len(lines) == 4
    assert "hunter2" not in "\n".join(lines)
    assert lines[0].startswith("--host: server.host: ")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[server]\nport = \n", ", line 2: not TOML: Invalid value"),
        ("[server]\nport = 1\nport = 2\n", ", line 3: not TOML: Cannot overwrite a value"),
        ('[server]\nhost = "', ", line 2: not TOML: "),
        (b"[server]\n# \xff\n", ", line 2: not UTF-8"),
        (f"[server]\nport = {'1' * 5000}\n", ": has a number with thousands of digits"),
        (
            f"[server]\nnames = {'[' * 5000}\n",
            ": has a number with thousands of digits, or thousands of nested lists",
        ),
    ],
)
def test_a_file_that_is_no_toml_is_refused_with_its_line(file: Any, text: bytes | str, problem: str) -> None:
    """The error names the place in the file that is wrong."""
    path = file(text)
    (found,) = refusal(path)
    assert found.startswith(f"{path}{problem}")


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("CWD", "/tmp/\udcff", "jobs.cwd: must be valid UTF-8"),
        ("ENVIRONMENT", '{"\\udcff": "x"}', "jobs.environment: must be valid UTF-8"),
        ("ENVIRONMENT", '{"A\\u0000": "x"}', "jobs.environment: must not contain NUL"),
    ],
)
def test_what_cannot_be_sent_to_a_keeper_is_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch, key: str, value: str, problem: str
) -> None:
    """Bytes that are not UTF-8 would end the service at the first job, and at each start after that."""
    monkeypatch.setenv(f"SHELLRUNNER_JOBS__{key}", value)
    assert refusal() == [f"environment variable SHELLRUNNER_JOBS__{key}: {problem}"]


def test_a_directory_with_nul_in_its_name_is_refused(file: Any) -> None:
    """The kernel would open another directory, or a keeper would fail; the same holds for files."""
    path = file('[jobs]\ncwd = "/tmp/\\u0000"\n[auth]\ntokens_file = "/tmp/\\u0000"')
    assert refusal(path) == [
        f"{path}, line 4: auth.tokens_file: must not contain NUL",
        f"{path}, line 2: jobs.cwd: must not contain NUL",
    ]


def test_a_users_entry_that_is_not_utf_8_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A home directory that is not UTF-8 is refused unless jobs.environment and jobs.cwd replace it."""
    entry = list(pwd.getpwuid(os.geteuid()))
    entry[5] = "/home/\udcff"
    monkeypatch.setattr(pwd, "getpwuid", lambda _: pwd.struct_passwd(entry))
    assert "default: jobs.environment: must be valid UTF-8" in refusal()
    assert load(jobs={"environment": {"HOME": "/"}})


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """A named file that cannot be read is an error, and is not treated as empty."""
    path = tmp_path / "missing.toml"
    assert refusal(path) == [f"{path}: cannot be read: No such file or directory"]
    assert refusal(tmp_path) == [f"{tmp_path}: cannot be read: Is a directory"]


def test_a_file_that_can_be_read_only_once_is_read() -> None:
    """A pipe, as of a shell's <(…), is read as a configuration."""
    reading, writing = os.pipe()
    os.write(writing, b"[server]\nport = 4711\n")
    os.close(writing)
    try:
        assert load(Path(f"/dev/fd/{reading}")).server.port == 4711
    finally:
        os.close(reading)


FRAGMENTS = st.sampled_from(
    ["", "# [server]", 'text = """\nport = 1\n"""', "list = [\n  1,\n\n  2,\n]", "x = { a = 1 }"]
)


@pytest.mark.heavy
@settings(deadline=None)  # each example is a whole configuration, on whatever machine this is
@given(before=st.lists(FRAGMENTS, max_size=6, unique=True), after=st.lists(FRAGMENTS, max_size=3, unique=True))
def test_the_line_is_where_the_key_stands_whatever_is_around_it(
    tmp_path_factory: pytest.TempPathFactory, before: Any, after: Any
) -> None:
    """Comments, tables and values of many lines do not shift the reported line."""
    above = "\n".join(["[other]", *before])
    below = "\n".join(["[another]", *after])
    path = tmp_path_factory.mktemp("config") / "c.toml"
    path.write_text(f"{above}\n[server]\nport = [\n  1]\n{below}\n")
    expected = len(above.split("\n")) + 2
    assert f"{path}, line {expected}: server.port: must be a whole number" in refusal(path)
