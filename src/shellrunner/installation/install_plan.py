"""The plan of an installation: system user, directories, configuration, first token, units.

Used by the command line. Must not know how a step is applied.
"""

import os
import pwd
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shellrunner.config.new_token import token_table
from shellrunner.config.token_hash import create_secret
from shellrunner.errors import ShellrunnerError
from shellrunner.installation import config_file, host, layout
from shellrunner.installation.config_file import ConfigFile
from shellrunner.installation.layout import DATABASE_URL, SERVICE, SOCKET, WORKER, Layout
from shellrunner.installation.plan import Plan
from shellrunner.installation.steps import MakeDirectory, MakeLink, Ownership, RunCommand, Step, WriteFile
from shellrunner.systemd import unit_files
from shellrunner.systemd.unit_files import Hardening

TOKEN_NAME: Final = "admin"  # noqa: S105  the name, not the secret
_PACKAGED_UNITS: Final = Path("/usr/lib/systemd/system")
_SCOPES: Final = ("read", "run", "admin")
_LISTEN: Final = ("localhost:8000", "unix:/run/shellrunner.sock")
# Every user may connect to the Unix socket, as on loopback, and needs a token there too.
_SOCKET_MODE: Final = "0666"


@dataclass(frozen=True)
class InstallOptions:
    """What to install."""

    where: Layout
    user_name: str = layout.USER_NAME
    listen: tuple[str, ...] = ()
    hardening: Hardening = "sudo"
    starts: bool = True


def plan_system(options: InstallOptions) -> Plan:
    """Return the plan for a service of the whole system.

    Raises:
        ShellrunnerError: it cannot be installed with these options.
    """
    where = options.where
    if (_PACKAGED_UNITS / SERVICE).exists():
        raise ShellrunnerError(
            f"shellrunner is installed by a package, whose units are in {_PACKAGED_UNITS}; to create a token: "
            f"shellrunner token create NAME 2>> {where.tokens} && systemctl reload shellrunner"
        )
    _refuse_beside(where, WORKER)
    host.require_permanent()
    host.require_executable_by(options.user_name)
    account = host.find_account(options.user_name)
    config = _config(options, _LISTEN, _SOCKET_MODE, where.tokens)
    ours = Ownership("root", account.group)
    systemctl = host.Systemctl(is_user=False)
    command = unit_files.serve_command(host.executable(), where.config)
    token = _first_token(where, config, ours, account.user)
    database_url = config.credential_file(where)
    units = _units(
        where,
        unit_files.service_unit(command, account, options.hardening, database_url, has_socket_unit=True),
        unit_files.socket_unit(config.server.addresses, config.server.socket_mode, account),
    )
    steps = [
        *_system_user(where, options.user_name),
        *_config_directory(where, ours),
        WriteFile(where.config, config.text, 0o640, ours, keeps_content=True),
        *token.steps,
        *(_database_url(where, starts=options.starts) if database_url else ()),
        *units,
        *_link(where),
        *(_start(systemctl, units, token) if options.starts else ()),
    ]
    notes = [*_database_notes(database_url), *token.notes, *_restart_notes(systemctl, units, options)]
    return Plan(steps, notes, token.secret)


def plan_worker(options: InstallOptions) -> Plan:
    """Return the plan for a worker of the whole system, which runs jobs of a history in PostgreSQL.

    Raises:
        ShellrunnerError: it cannot be installed with these options.
    """
    where = options.where
    _refuse_beside(where, SERVICE)
    host.require_permanent()
    host.require_executable_by(options.user_name)
    account = host.find_account(options.user_name)
    config = config_file.read_or_create(where.config, config_file.worker_text(), ())
    if not config.has_database:
        raise ShellrunnerError(f'{where.config} names no database: add url_file = "{DATABASE_URL}" to [store]')
    database_url = config.credential_file(where)
    ours, systemctl = Ownership("root", account.group), host.Systemctl(is_user=False)
    command = unit_files.serve_command(host.executable(), where.config, "worker")
    unit = WriteFile(
        where.units / WORKER,
        unit_files.worker_unit(command, account, options.hardening, database_url),
    )
    steps = [
        *_system_user(where, options.user_name),
        *_config_directory(where, ours),
        WriteFile(where.config, config.text, 0o640, ours, keeps_content=True),
        *(_database_url(where, starts=options.starts) if database_url else ()),
        unit,
        *_link(where),
        *(_start_worker(systemctl, unit) if options.starts else ()),
    ]
    notes = _database_notes(database_url)
    if options.starts and not unit.is_done() and systemctl.is_active(WORKER):
        notes.append(f"the unit was changed; to apply it: {' '.join(systemctl.command('restart', WORKER))}")
    return Plan(steps, notes)


def _refuse_beside(where: Layout, unit: str) -> None:
    """Refuse what would use the state directory of another unit.

    Raises:
        ShellrunnerError: that one is installed.
    """
    if any((directory / unit).exists() for directory in (where.units, _PACKAGED_UNITS)):
        raise ShellrunnerError(
            f"{unit} is installed here, and both would use {where.state}: a host has either of them; to remove it: "
            "shellrunner uninstall"
        )


def _database_notes(database_url: Path | None) -> list[str]:
    if database_url is None or database_url.exists():
        return []
    return [f"before it is started, write the URL of the database into {database_url}, for root only"]


def _database_url(where: Layout, *, starts: bool) -> Iterator[Step]:
    """Yield the step that makes the file with the URL private, which an administrator writes.

    Raises:
        ShellrunnerError: it is missing, and what needs it is to be started.
    """
    if where.database_url.exists():
        yield WriteFile(where.database_url, "", 0o600, Ownership("root", "root"), keeps_content=True, shown="")
    elif starts:
        raise ShellrunnerError(
            f"{where.database_url} is missing: write the URL of the database into it, so that only root can read it, "
            "or use --no-start to write the other files only"
        )


def _start_worker(systemctl: host.Systemctl, unit: WriteFile) -> Iterator[Step]:
    systemctl.require_running()
    yield RunCommand(systemctl.command("daemon-reload"), unit.is_done)
    yield RunCommand(
        systemctl.command("enable", "--now", WORKER),
        lambda: systemctl.is_enabled(WORKER) and systemctl.is_active(WORKER),
        lambda: systemctl.status_of(WORKER),
    )


def plan_user(options: InstallOptions) -> Plan:
    """Return the plan for a service of the user that installs, who needs no token on its Unix socket.

    Raises:
        ShellrunnerError: it cannot be installed with these options.
    """
    where = options.where
    host.require_permanent()
    config = _config(options, (f"unix:{layout.runtime_socket()}",), None, None)
    systemctl = host.Systemctl(is_user=True)
    units = _units(
        where,
        unit_files.user_service_unit(unit_files.serve_command(host.executable(), where.config)),
        unit_files.socket_unit(config.server.addresses, config.server.socket_mode, None),
    )
    steps: list[Step] = [WriteFile(where.config, config.text, 0o600, keeps_content=True)]
    address = config.server.addresses[0]
    url = f"unix:{address.path}" if address.path else f"http://{address.host}:{address.port}"
    if not where.client.exists():
        steps.append(WriteFile(where.client, f'url = "{url}"\n', 0o600))
    no_token = _FirstToken()
    steps += [*units, *(_start(systemctl, units, no_token) if options.starts else ())]
    return Plan(steps, [*_restart_notes(systemctl, units, options), *_linger_notes()])


def plan_staged(options: InstallOptions) -> Plan:
    """Return the plan of a package's files below another root; its scripts create user, directories and token."""
    where = options.where
    account = unit_files.ServiceAccount(options.user_name, options.user_name)
    config = _config(options, _LISTEN, _SOCKET_MODE, where.tokens)
    command = [_in_root(word, where.root) for word in host.executable()]
    sysusers = f"{_sysusers_line(where, options.user_name)}\n"
    return Plan(
        [
            WriteFile(where.at(where.config), config.text, 0o640, keeps_content=True),
            WriteFile(where.at(Path("/usr/lib/sysusers.d/shellrunner.conf")), sysusers),
            WriteFile(where.at(Path("/usr/lib/tmpfiles.d/shellrunner.conf")), _tmpfiles(where, account.group)),
            *_units(
                where,
                unit_files.service_unit(
                    unit_files.serve_command(command, where.config), account, options.hardening, has_socket_unit=True
                ),
                unit_files.socket_unit(config.server.addresses, config.server.socket_mode, account),
            ),
            *_link(where),
        ]
    )


def _config(
    options: InstallOptions, listen: tuple[str, ...], mode: str | None, tokens_file: Path | None
) -> ConfigFile:
    where = options.where
    addresses = options.listen or listen
    text = config_file.default_text(addresses, mode, tokens_file, is_packaged=where.is_staged)
    return config_file.read_or_create(where.at(where.config), text, options.listen)


@dataclass(frozen=True)
class _FirstToken:
    """The steps that create the first token, if there is none."""

    steps: tuple[Step, ...] = ()
    notes: tuple[str, ...] = ()
    secret: str | None = None


def _first_token(where: Layout, config: ConfigFile, owner: Ownership, user: str) -> _FirstToken:
    if config.has_tokens:
        return _FirstToken()
    if config.tokens_file is None:
        return _FirstToken(notes=(f'{where.config} names no tokens: add tokens_file = "{where.tokens}" to [auth]',))
    secret = create_secret()
    text = "".join(f"{line}\n" for line in token_table(TOKEN_NAME, secret, _SCOPES))
    hidden = text.replace(text.split('"')[3], "(the hash of the new token)")
    tokens = WriteFile(config.tokens_file, text, 0o640, owner, keeps_content=True, shown=hidden)
    if not tokens.writes():
        return _FirstToken((tokens,))
    create = f"shellrunner token create NAME 2>> {config.tokens_file} && systemctl reload shellrunner"
    notes = (
        f"the token above is not shown again; its hash is in {config.tokens_file}",
        "to use the token, set SHELLRUNNER_TOKEN, or token in ~/.config/shellrunner/client.toml",
        f"to create another one: {create}",
    )
    if where.client.exists():
        kept = f"{where.client} exists and was not changed: to use the service as root, put the token there"
        return _FirstToken((tokens,), (*notes, kept), secret)
    url = next((f"unix:{each.path}" for each in config.server.addresses if each.path), None)
    # Over TCP the service's process accepts the connections, and not systemd.
    lines = f'url = "{url}"\n' if url else f'server_user = "{user}"\n'
    client = WriteFile(
        where.client, f'{lines}token = "{secret}"\n', 0o600, shown=f'{lines}token = "(the new token)"\n'
    )
    return _FirstToken((tokens, client), notes, secret)


def _system_user(where: Layout, name: str) -> Iterator[Step]:
    """Yield the steps that create the system user; any other user exists, with a home of its own."""
    if name != layout.USER_NAME:
        if not host.user_exists(name):
            raise ShellrunnerError(f"no such user: {name!r}: create it, or omit --user-name")
        return
    if host.home_of(name) not in {None, where.home}:
        return
    yield RunCommand(["systemd-sysusers", "--inline", _sysusers_line(where, name)], lambda: host.user_exists(name))
    for directory in (where.state, where.home):
        yield MakeDirectory(directory, 0o700, Ownership(*host.find_account(name)))


def _config_directory(where: Layout, owner: Ownership) -> Iterator[Step]:
    if where.config.parent.name == layout.NAME:  # any other directory is not ours to change
        yield MakeDirectory(where.config.parent, 0o750, owner)


def _sysusers_line(where: Layout, name: str) -> str:
    return f'u {name} - "shellrunner service" {where.home} /usr/sbin/nologin'


def _tmpfiles(where: Layout, group: str) -> str:
    return (
        f"d {where.config.parent} 0750 root {group} -\n"
        f"z {where.config} 0640 root {group} -\n"
        f"f {where.tokens} 0640 root {group} -\n"
        f"d {where.state} 0700 {group} {group} -\n"
        f"d {where.home} 0700 {group} {group} -\n"
    )


def _units(where: Layout, service: str, socket: str) -> list[WriteFile]:
    units = where.at(where.units)
    return [WriteFile(units / SERVICE, service), WriteFile(units / SOCKET, socket)]


def _link(where: Layout) -> Iterator[Step]:
    target = Path(_in_root(host.executable()[0], where.root))
    if where.link and target.name == where.link.name and target != where.link:
        yield MakeLink(where.at(where.link), target)


def _start(systemctl: host.Systemctl, units: list[WriteFile], token: _FirstToken) -> Iterator[Step]:
    systemctl.require_running()
    yield RunCommand(systemctl.command("daemon-reload"), lambda: all(unit.is_done() for unit in units))
    yield RunCommand(
        systemctl.command("enable", "--now", SOCKET, SERVICE),
        lambda: all(systemctl.is_enabled(each) and systemctl.is_active(each) for each in (SOCKET, SERVICE)),
        lambda: systemctl.status_of(SERVICE),
    )
    # A service that runs already knows no token that is created now.
    yield RunCommand(
        systemctl.command("reload", SERVICE), lambda: token.secret is None or not systemctl.is_active(SERVICE)
    )


def _restart_notes(systemctl: host.Systemctl, units: list[WriteFile], options: InstallOptions) -> Iterator[str]:
    """Yield a note if units were changed under a running service: a restart is left to the administrator."""
    if options.starts and not all(unit.is_done() for unit in units) and systemctl.is_active(SERVICE):
        # A restart of both at once fails: the socket unit cannot listen while the service is active.
        words = (("stop", SERVICE), ("restart", SOCKET), ("start", SERVICE))
        commands = " && ".join(" ".join(systemctl.command(*each)) for each in words)
        yield f"the units were changed; to apply them: {commands}"


def _user_name() -> str:
    """Return the name of the user, whatever USER says: cron and `su` leave it unset, or another one's."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # no entry in the user database
        return str(os.getuid())


def _linger_notes() -> Iterator[str]:
    name = _user_name()
    if not Path("/var/lib/systemd/linger", name).exists():
        yield (
            "when your last session ends, systemd ends the service and its commands; to keep them: "
            f"loginctl enable-linger {name}"
        )


def _in_root(path: str, root: Path) -> str:
    """Return the path that a file below the root has once the package is installed."""
    below = Path(path)
    return f"/{below.relative_to(root)}" if below.is_relative_to(root) and below.is_absolute() else path
