"""`shellrunner install` and `uninstall`: what they write, and that a second run changes nothing.

Here they run without systemd (`--no-start`) and without root; tools/try_install.sh runs them in a booted Debian.
"""

import dataclasses
import os
import pwd
import re
import stat
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Protocol

import pytest

from shellrunner.config import load
from shellrunner.errors import ConfigError, ShellrunnerError
from shellrunner.installation import config_file, host, install_plan
from shellrunner.installation.install_plan import InstallOptions, plan_system, plan_worker
from shellrunner.installation.layout import SERVICE, system_layout
from shellrunner.installation.plan import Plan, apply
from shellrunner.installation.removal_plan import plan_removal
from shellrunner.installation.steps import MakeLink, Ownership, Remove, RunCommand, WriteFile


class Run(Protocol):
    """Run the command line, which must exit with `code`."""

    def __call__(self, *words: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture
def shellrunner(tmp_path: Path) -> Run:
    """Run the command line as a user whose home is empty, and without systemd."""
    environment = {
        "HOME": str(tmp_path / "home"),
        "XDG_RUNTIME_DIR": str(tmp_path / "run"),
        "PATH": os.environ["PATH"],
    }
    (tmp_path / "home").mkdir()

    def run(*words: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
        verb = [sys.executable, "-m", "shellrunner", *map(str, words)]
        done = subprocess.run(verb, capture_output=True, text=True, check=False, timeout=30, env=environment)
        assert done.returncode == code, done.stderr
        return done

    return run


def tree(directory: Path) -> dict[str, tuple[str, int, bytes]]:
    """Every file below a directory, with its mode, its time and its content."""
    return {
        str(path.relative_to(directory)): (oct(path.lstat().st_mode), path.lstat().st_mtime_ns, path.read_bytes())
        for path in sorted(directory.rglob("*"))
        if path.is_file() or path.is_symlink()
    }


@pytest.mark.heavy
def test_a_user_installs_a_service_that_starts(shellrunner: Run, tmp_path: Path) -> None:
    """`install --user` writes a private configuration that loads, the client's address, and both units."""
    shellrunner("install", "--user", "--no-start")
    home = tmp_path / "home" / ".config"
    config = home / "shellrunner" / "config.toml"
    assert load(config).server.listen == [f"unix:{tmp_path}/run/shellrunner.sock"]
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    client = tomllib.loads((home / "shellrunner" / "client.toml").read_text())
    assert client == {"url": f"unix:{tmp_path}/run/shellrunner.sock"}
    units = home / "systemd" / "user"
    assert f"serve --config {config}\n" in (units / "shellrunner.service").read_text()
    assert f"ListenStream={tmp_path}/run/shellrunner.sock\n" in (units / "shellrunner.socket").read_text()


@pytest.mark.heavy
def test_a_second_installation_changes_nothing(shellrunner: Run, tmp_path: Path) -> None:
    """It reports that there is nothing to do, and no file is written again."""
    shellrunner("install", "--user", "--no-start")
    before = tree(tmp_path)
    assert "nothing to do" in shellrunner("install", "--user", "--no-start").stderr
    assert tree(tmp_path) == before


@pytest.mark.heavy
def test_an_installation_keeps_what_the_administrator_changed(shellrunner: Run, tmp_path: Path) -> None:
    """The configuration keeps its content; units and modes are restored."""
    shellrunner("install", "--user", "--no-start")
    config = tmp_path / "home" / ".config" / "shellrunner" / "config.toml"
    changed = config.read_text() + "\n[log]\nlevel = 'debug'\n"
    config.write_text(changed)
    config.chmod(0o644)
    unit = tmp_path / "home" / ".config" / "systemd" / "user" / "shellrunner.service"
    original = unit.read_text()
    unit.write_text("")
    report = shellrunner("install", "--user", "--no-start").stderr
    assert f"set mode and owner of {config} to 600" in report
    assert (config.read_text(), stat.S_IMODE(config.stat().st_mode)) == (changed, 0o600)
    assert unit.read_text() == original


@pytest.mark.heavy
def test_a_dry_run_prints_everything_and_does_nothing(shellrunner: Run, tmp_path: Path) -> None:
    """It prints each path and each line that would be written; the installation then writes exactly these."""
    plan = shellrunner("install", "--user", "--no-start", "--dry-run").stdout
    assert tree(tmp_path) == {}
    shellrunner("install", "--user", "--no-start")
    written = {path: content for path, (_, _, content) in tree(tmp_path).items()}
    assert re.findall(r"(?m)^write (\S+) \([0-7]+\):$", plan) == [
        str(tmp_path / path) for path in sorted(written, key=plan.index)
    ]
    for content in written.values():
        shown = "".join(f"    {line}\n" if line else "\n" for line in content.decode().splitlines())
        assert shown in plan


@pytest.mark.heavy
def test_a_package_gets_files_and_nothing_else(shellrunner: Run, tmp_path: Path) -> None:
    """`install --root` writes units, accounts, directories and configuration with the paths of a running system."""
    root = tmp_path / "root"
    shellrunner("install", "--root", root)
    files = set(tree(root))
    assert files - {"usr/bin/shellrunner"} == {
        "etc/shellrunner/config.toml",
        "usr/lib/systemd/system/shellrunner.service", "usr/lib/systemd/system/shellrunner.socket",
        "usr/lib/sysusers.d/shellrunner.conf", "usr/lib/tmpfiles.d/shellrunner.conf",
    }  # fmt: skip
    for path in files - {"usr/bin/shellrunner"}:
        assert str(root) not in (root / path).read_text(), path
    config = tomllib.loads((root / "etc/shellrunner/config.toml").read_text())
    assert config["auth"] == {"tokens_file": "/etc/shellrunner/tokens.toml"}
    assert "nothing to do" in shellrunner("install", "--root", root).stderr


@pytest.mark.heavy
def test_the_addresses_are_checked(shellrunner: Run, tmp_path: Path) -> None:
    """An invalid --listen is an error that names it, and so is one that an existing configuration contradicts."""
    assert (
        "--listen: must be unix:/PATH"
        in shellrunner("install", "--user", "--no-start", "--listen", "x", code=2).stderr
    )
    shellrunner("install", "--user", "--no-start", "--listen", "127.0.0.1:8123")
    unit = tmp_path / "home/.config/systemd/user/shellrunner.socket"
    assert "ListenStream=127.0.0.1:8123\n" in unit.read_text()
    refused = shellrunner("install", "--user", "--no-start", "--listen", "127.0.0.1:1", code=2).stderr
    assert "change server.listen there" in refused


def test_without_systemd_the_error_says_what_to_do(shellrunner: Run) -> None:
    """`install --user` where no systemd runs for the user is an error that names --no-start."""
    assert "--no-start" in shellrunner("install", "--user", code=1).stderr


@pytest.mark.heavy
def test_options_that_exclude_each_other_are_refused(shellrunner: Run, tmp_path: Path) -> None:
    """--user is not combined with --root, --user-name or --hardening."""
    for words in (["--root", tmp_path], ["--user-name", "x"], ["--hardening", "strict"]):
        assert "cannot be combined" in shellrunner("install", "--user", *words, code=2).stderr


@pytest.mark.heavy
def test_a_removal_keeps_settings_unless_it_purges(shellrunner: Run, tmp_path: Path) -> None:
    """`uninstall --user` removes the units; with --purge also settings and history. Repeated, it does nothing."""
    shellrunner("install", "--user", "--no-start")
    state = tmp_path / "home/.local/state/shellrunner"
    state.mkdir(parents=True)
    shellrunner("uninstall", "--user", "--no-stop")
    assert set(tree(tmp_path)) == {f"home/.config/shellrunner/{name}.toml" for name in ("client", "config")}
    assert state.is_dir()
    shellrunner("uninstall", "--user", "--no-stop", "--purge")
    assert tree(tmp_path) == {}
    assert not state.exists()
    assert "nothing to do" in shellrunner("uninstall", "--user", "--no-stop", "--purge").stderr


@pytest.fixture
def reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Return this program as one that every user can execute, wherever the tests run."""
    monkeypatch.setattr(host, "require_permanent", lambda: None)
    monkeypatch.setattr(host, "require_executable_by", lambda name: None)


@pytest.mark.usefixtures("reachable")
def test_the_system_wide_plan_lets_root_and_tokens_in(tmp_path: Path) -> None:
    """The service can read its files, only root can change them; root's client gets the token that is printed."""
    where = system_layout(tmp_path / "shellrunner" / "config.toml")
    plan = plan_system(InstallOptions(where, starts=False))
    assert plan.secret is not None
    files = {step.path: step for step in plan.steps if isinstance(step, WriteFile)}
    for path in (where.config, where.tokens):
        assert (files[path].mode, files[path].owner) == (0o640, Ownership("root", "shellrunner"))
        assert files[path].keeps_content
    if where.client in files:  # unless this machine's root has one
        assert files[where.client].mode == 0o600
        assert f'token = "{plan.secret}"' in files[where.client].text
        assert plan.secret not in files[where.client].describe()
    config = tmp_path / "config.toml"
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(files[where.tokens].text)
    config.write_text(files[where.config].text.replace(str(where.tokens), str(tokens)))
    tokens.chmod(0o640)
    (token,) = load(config).auth.tokens
    assert (token.name, token.scopes) == (install_plan.TOKEN_NAME, ["read", "run", "admin"])
    assert plan.secret not in tokens.read_text()


@pytest.mark.usefixtures("reachable")
def test_there_is_one_first_token(tmp_path: Path) -> None:
    """A configuration with tokens, or with a tokens file that exists, gets no other one."""
    where = system_layout(tmp_path / "shellrunner" / "config.toml")
    where.config.parent.mkdir()
    where.tokens.touch()
    assert plan_system(InstallOptions(where, starts=False)).secret is None
    where.tokens.unlink()
    where.config.write_text("[[auth.tokens]]\nname = 'a'\n")
    assert plan_system(InstallOptions(where, starts=False)).secret is None


@pytest.mark.usefixtures("reachable")
def test_only_a_directory_of_its_own_changes_its_mode(tmp_path: Path) -> None:
    """With --config elsewhere, the mode and owner of that directory stay."""
    plan = plan_system(InstallOptions(system_layout(tmp_path / "config.toml"), starts=False))
    assert str(tmp_path) not in {str(getattr(step, "path", "")) for step in plan.steps}


def worker_files(plan: Plan) -> dict[str, WriteFile]:
    """Return the files that a plan writes, by name."""
    return {step.path.name: step for step in plan.steps if isinstance(step, WriteFile)}


@pytest.mark.usefixtures("reachable")
def test_a_worker_gets_the_database_as_a_credential(tmp_path: Path) -> None:
    """The new configuration names the credential of the unit, whose file must be there before it is started."""
    where = system_layout(tmp_path / "shellrunner" / "config.toml")
    with pytest.raises(ShellrunnerError, match=r"database-url is missing.*--no-start"):
        plan_worker(InstallOptions(where))
    plan = plan_worker(InstallOptions(where, starts=False))
    files = worker_files(plan)
    assert set(files) == {"config.toml", "shellrunner-worker.service"}
    assert (files["config.toml"].mode, files["config.toml"].owner) == (0o640, Ownership("root", "shellrunner"))
    assert tomllib.loads(files["config.toml"].text)["store"] == {"url_file": "database-url"}
    unit = files["shellrunner-worker.service"].text
    assert f"\nLoadCredential=database-url:{where.database_url}\n" in unit
    assert f" worker --config {where.config}\n" in unit
    assert plan.secret is None
    assert any(str(where.database_url) in note for note in plan.notes)
    where.config.parent.mkdir()
    where.database_url.write_text("postgresql://a:hunter2@b/c")
    plan = plan_worker(InstallOptions(where, starts=False))
    private = worker_files(plan)["database-url"]
    assert (private.mode, private.owner, private.writes()) == (0o600, Ownership("root", "root"), False)
    assert not any("hunter2" in step.describe() for step in plan.steps)
    assert plan.notes == []


@pytest.mark.usefixtures("reachable")
def test_a_node_with_the_api_gets_the_database_as_a_credential(tmp_path: Path) -> None:
    """If its configuration names that; one that is newly made has no database."""
    where = system_layout(tmp_path / "shellrunner" / "config.toml")
    assert "\nLoadCredential=" not in worker_files(plan_system(InstallOptions(where, starts=False)))[SERVICE].text
    where.config.parent.mkdir()
    where.config.write_text("[store]\nurl_file = 'database-url'\n")
    with pytest.raises(ShellrunnerError, match=r"database-url is missing.*--no-start"):
        plan_system(InstallOptions(where))
    plan = plan_system(InstallOptions(where, starts=False))
    assert f"\nLoadCredential=database-url:{where.database_url}\n" in worker_files(plan)[SERVICE].text
    assert (
        plan.notes[0]
        == f"before it is started, write the URL of the database into {where.database_url}, for root only"
    )
    where.database_url.write_text("postgresql://a:b@c/d")
    assert worker_files(plan_system(InstallOptions(where, starts=False)))["database-url"].mode == 0o600


@pytest.mark.usefixtures("reachable")
def test_a_worker_is_installed_again_and_upgraded(tmp_path: Path) -> None:
    """Nothing is written twice; a unit of an earlier version is replaced, the configuration keeps its content."""
    where = dataclasses.replace(
        system_layout(tmp_path / "shellrunner" / "config.toml"), units=tmp_path / "units", link=None
    )
    options = InstallOptions(where, pwd.getpwuid(os.getuid()).pw_name, starts=False)

    def pending() -> list[str]:
        plan = plan_worker(options)
        files = [step for step in plan.steps if isinstance(step, WriteFile)]
        described = [step.path.name for step in files if step.writes()]
        for step in files:
            if step.writes():
                dataclasses.replace(step, owner=None).apply()
        return described

    assert pending() == ["config.toml", "shellrunner-worker.service"]
    assert pending() == []
    where.config.write_text(f"{where.config.read_text()}name = 'w'\n")
    (where.units / "shellrunner-worker.service").write_text("of an earlier version")
    assert pending() == ["shellrunner-worker.service"]
    assert load(where.config, store={"url_file": None, "url": "postgresql:///x"}).worker.name == "w"
    where.config.write_text("[worker]\nname = 'w'\n")
    with pytest.raises(ShellrunnerError, match="names no database"):
        plan_worker(options)
    where.config.write_text(f"[store]\nurl_file = '{tmp_path}/url'\n")
    assert "\nLoadCredential=" not in worker_files(plan_worker(options))["shellrunner-worker.service"].text


@pytest.mark.usefixtures("reachable")
def test_a_host_has_a_service_or_a_worker(tmp_path: Path) -> None:
    """Neither is installed beside the other; a removal removes the one that is there, a purge its URL too."""
    where = dataclasses.replace(system_layout(tmp_path / "shellrunner" / "config.toml"), units=tmp_path)
    (tmp_path / "shellrunner.service").touch()
    with pytest.raises(ShellrunnerError, match=r"^shellrunner\.service is installed here"):
        plan_worker(InstallOptions(where, starts=False))
    (tmp_path / "shellrunner.service").rename(tmp_path / "shellrunner-worker.service")
    with pytest.raises(ShellrunnerError, match=r"^shellrunner-worker\.service is installed here"):
        plan_system(InstallOptions(where, starts=False))
    removed = [step.path for step in plan_removal(where, purge=True, stops=False).steps if isinstance(step, Remove)]
    assert removed[0] == tmp_path / "shellrunner-worker.service"
    assert where.database_url in removed
    assert tmp_path / "shellrunner.service" not in removed


@pytest.mark.heavy
def test_a_dry_run_of_a_worker_prints_its_unit(shellrunner: Run, tmp_path: Path) -> None:
    """And changes nothing; options of a service that listens are refused."""
    config = tmp_path / "shellrunner" / "config.toml"
    words = ("install", "--worker", "--no-start", "--dry-run", "--user-name", pwd.getpwuid(os.getuid()).pw_name)
    plan = shellrunner(*words, "--config", config).stdout
    assert f"    LoadCredential=database-url:{config.parent}/database-url\n" in plan
    assert tree(tmp_path) == {}
    for others in (["--user"], ["--listen", "127.0.0.1:1"], ["--root", str(tmp_path)]):
        assert "cannot be combined" in shellrunner("install", "--worker", *others, code=2).stderr


def test_an_unreachable_program_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python below a directory that other users cannot enter is refused by the name of that directory."""
    hidden = tmp_path / "hidden"
    (hidden / "bin").mkdir(parents=True)
    python = hidden / "bin" / "python"
    python.symlink_to(sys.executable)
    hidden.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(ShellrunnerError, match=r"cannot execute .*because of the mode of .*/opt/shellrunner"):
        host.require_executable_by("a-new-user")


def test_an_environment_of_an_unreachable_interpreter_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another environment of the same Python would not help, so the message asks for another Python."""
    with tempfile.TemporaryDirectory() as open_directory:  # those of pytest are private
        os.chmod(open_directory, 0o755)
        interpreter, python = Path(open_directory, "hidden", "python"), Path(open_directory, "python")
        interpreter.parent.mkdir(mode=0o700)
        interpreter.touch(mode=0o755)
        python.symlink_to(interpreter)
        monkeypatch.setattr(sys, "executable", str(python))
        with pytest.raises(
            ShellrunnerError, match=r"a Python that every user can execute, such as /usr/bin/python3 -m"
        ):
            host.require_executable_by("a-new-user")


def test_an_environment_in_a_cache_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One below a directory that is tagged as a cache, as uvx makes it, is refused; uv tags environments as well."""
    environment = tmp_path / "tools" / "shellrunner"
    environment.mkdir(parents=True)
    (environment / "CACHEDIR.TAG").touch()
    monkeypatch.setattr(sys, "prefix", str(environment))
    host.require_permanent()
    (tmp_path / "CACHEDIR.TAG").touch()
    with pytest.raises(ShellrunnerError, match="is in a cache"):
        host.require_permanent()


def test_a_file_is_never_readable_by_more_than_its_mode_says(tmp_path: Path) -> None:
    """A file with a secret is written under another name with mode 600, then renamed; leftovers do not disturb."""
    path = tmp_path / "new" / "secret"
    step = WriteFile(path, "x\n", 0o640)
    step.apply()
    (path.parent / ".secret.new").write_text("left behind")
    WriteFile(path, "y\n", 0o640).apply()
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("y\n", 0o640)
    assert [each.name for each in path.parent.iterdir()] == ["secret"]


def test_a_failed_command_is_reported_with_its_reason() -> None:
    """The error has the command and its standard error; what follows is not applied."""
    applied: list[str] = []
    steps = [RunCommand(["sh", "-c", "echo no >&2; exit 3"], lambda: False), RunCommand(["true"], lambda: False)]
    with pytest.raises(ShellrunnerError, match=r"^sh -c .*: no$"):
        apply(Plan(steps).pending(), applied.append)
    assert applied == []
    with pytest.raises(ShellrunnerError, match=r"^/nowhere/x is not installed here$"):
        apply(Plan([RunCommand(["/nowhere/x"], lambda: False)]).pending(), applied.append)
    waiting = RunCommand(["sh", "-c", "echo no >&2; exit 3"], lambda: False, lambda: "x.service reports: waiting")
    with pytest.raises(ShellrunnerError, match=r"^sh -c .*: no; x\.service reports: waiting$"):
        apply(Plan([waiting]).pending(), applied.append)


def test_a_link_and_other_files_are_not_replaced_or_followed(tmp_path: Path) -> None:
    """A command that is there already stays, and a removal of a link leaves its target."""
    (tmp_path / "there").write_text("mine")
    link = MakeLink(tmp_path / "link", tmp_path / "there")
    link.apply()
    assert MakeLink(tmp_path / "there", Path("/x")).is_done()
    Remove(tmp_path / "link").apply()
    assert (tmp_path / "there").read_text() == "mine"


def test_a_purge_checks_for_commands_first() -> None:
    """Nothing is deleted before it is certain that no command of the service runs."""
    described = [type(step).__name__ for step in plan_removal(system_layout(), purge=True, stops=False).steps]
    assert described.index("RequireNoCommands") < described.index("Remove", 2)


def test_an_existing_configuration_is_read_strictly(tmp_path: Path) -> None:
    """One that is no TOML, or has an invalid address, is an error with its path."""
    path = tmp_path / "config.toml"
    for text in ("x", "[server]\nlisten = ['x']", "server = 1"):
        path.write_text(text)
        with pytest.raises(ConfigError, match=str(path)):
            config_file.read_or_create(path, "", ())


def test_the_note_on_lingering_names_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without USER, as under cron, or with another user's, it is the name in the user database."""
    for environment in ({}, {"USER": "somebody"}):
        monkeypatch.delenv("USER", raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        notes = [*install_plan._linger_notes()]
        assert all(note.endswith(f" {install_plan._user_name()}") for note in notes)
        assert install_plan._user_name() == pwd.getpwuid(os.getuid()).pw_name
