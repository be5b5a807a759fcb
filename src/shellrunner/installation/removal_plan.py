"""The plan of a removal: stops the service or worker, removes its units; running commands, settings, history stay.

Used by the command line. With `purge` settings and history are removed too, once no command runs any more. Must not
know how a step is applied.
"""

import os
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass

from shellrunner.config.token_hash import hash_secret
from shellrunner.errors import ShellrunnerError
from shellrunner.installation import host, layout
from shellrunner.installation.layout import DATABASE_URL, SERVICE, SOCKET, WORKER, Layout
from shellrunner.installation.plan import Plan
from shellrunner.installation.steps import Remove, RemoveEmptyDirectory, RunCommand, Step


def plan_removal(where: Layout, *, purge: bool, stops: bool) -> Plan:
    """Return the plan of a removal.

    `stops`: whether systemd is to stop the service; otherwise only files are removed.
    """
    systemctl = host.Systemctl(is_user=where.is_user)
    units: tuple[str, ...] = (SOCKET, SERVICE)
    if (where.at(where.units) / WORKER).exists():  # a host has either of them
        units = (WORKER,)
    files = [Remove(where.at(where.units / unit)) for unit in units]
    steps: list[Step] = []
    if stops:
        systemctl.require_running()
        steps.append(
            RunCommand(
                systemctl.command("disable", "--now", *units),
                lambda: not any(systemctl.is_enabled(each) or systemctl.is_active(each) for each in units),
            )
        )
    steps += files
    if stops:
        steps.append(RunCommand(systemctl.command("daemon-reload"), lambda: all(file.is_done() for file in files)))
    steps += _link(where)
    if purge:
        return Plan([*steps, *_purge(where)])
    return Plan(steps, [f"kept: {where.config.parent} and the history in {where.state}; --purge removes them"])


@dataclass(frozen=True)
class RequireNoCommands:
    """Require that no command runs whose files a purge would remove."""

    is_user: bool

    def describe(self) -> str:
        """Return what is checked."""
        return "check that no commands of the service run any more"

    def is_done(self) -> bool:
        """Return whether there is none."""
        return not host.service_processes(is_user=self.is_user)

    def apply(self) -> None:
        """Check again, after the service itself was stopped.

        Raises:
            ShellrunnerError: commands still run.
        """
        if running := host.service_processes(is_user=self.is_user):
            raise ShellrunnerError(
                f"commands still run (processes {', '.join(map(str, sorted(running)[:10]))}): wait for them or end "
                "them, then run this again; only the units were removed"
            )


def _link(where: Layout) -> Iterator[Step]:
    """Yield the removal of our link, and of no other file with its name."""
    if where.link and os.path.islink(where.at(where.link)):
        target = os.readlink(where.at(where.link))
        if target == host.executable()[0]:
            yield Remove(where.at(where.link))


def _purge(where: Layout) -> Iterator[Step]:
    yield RequireNoCommands(where.is_user)
    is_client = _is_client_of(where)
    if is_client:
        yield Remove(where.at(where.client))
    yield Remove(where.at(where.config))
    yield Remove(where.at(where.tokens))
    yield Remove(where.at(where.database_url))
    yield Remove(where.at(where.state))
    if where.config.parent.name == layout.NAME:
        files = frozenset(
            {where.config.name, where.tokens.name, DATABASE_URL, *([where.client.name] if is_client else [])}
        )
        yield RemoveEmptyDirectory(where.at(where.config.parent), files)
    if not where.is_user and host.home_of(layout.USER_NAME) == where.home:
        yield RunCommand(["userdel", layout.USER_NAME], lambda: not host.user_exists(layout.USER_NAME))


def _is_client_of(where: Layout) -> bool:
    """Return whether the client configuration is for this service, and not for another one."""
    try:
        client = tomllib.loads(where.at(where.client).read_text("utf-8-sig"))
        if where.is_user:
            return client == {"url": f"unix:{layout.runtime_socket()}"}
        return hash_secret(str(client.get("token", ""))) in where.at(where.tokens).read_text()
    except (OSError, ValueError):
        return False
