"""Generate the systemd units of the service and its socket, from the templates beside this file.

Used by the command line. Must not know jobs, HTTP, SQL, or the notifications of a running service.
"""

import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Final, Literal, NamedTuple

from shellrunner.config import Address
from shellrunner.errors import ConfigError

Hardening = Literal["strict", "sudo"]

# What root needs to run commands as other users, and to kill them: capabilities(7).
_RUN_AS_CAPABILITIES: Final = (
    "CAP_SETUID CAP_SETGID CAP_KILL CAP_CHOWN CAP_FOWNER CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_SYS_PTRACE"
)
_CAPABILITY_COMMENTS: Final = {
    "": "Breaks ports below 1024, ping without net.ipv4.ping_group_range, and other programs with file capabilities.",
    _RUN_AS_CAPABILITIES: "Needed for other users' commands (run_as); root commands have no other capabilities.",
}


class ServiceAccount(NamedTuple):
    """The user and group of a unit."""

    user: str
    group: str


def service_unit(command: Sequence[str], account: ServiceAccount, hardening: Hardening) -> str:
    """Return the service unit that runs `command`, whose first word is an absolute path."""
    program, *arguments = command
    # systemd.service(5): $NAME is replaced in the arguments, but not in the program's path.
    words = " ".join([_quoted(program), *(_quoted(word).replace("$", "$$") for word in arguments)])
    capabilities = _RUN_AS_CAPABILITIES if account.user == "root" else ""
    hardening_lines = _fill(
        hardening, capabilities=capabilities, capabilities_comment=_CAPABILITY_COMMENTS[capabilities]
    )
    names = {"user": _literal(account.user), "group": _literal(account.group)}
    return _fill("shellrunner.service", hardening=hardening_lines, command=words, **names)


def socket_unit(addresses: Sequence[Address], mode: str, account: ServiceAccount) -> str:
    """Return the socket unit with which systemd listens on these addresses.

    Raises:
        ConfigError: the port of one of them is 0.
    """
    lines = [f"ListenStream={_literal(_listen_stream(address))}" for address in addresses]
    if any(address.path for address in addresses):
        lines += ["# Who may connect to a Unix socket.", f"SocketMode={mode}"]
        lines += [f"SocketUser={_literal(account.user)}", f"SocketGroup={_literal(account.group)}"]
    return _fill("shellrunner.socket", listen="\n".join(lines))


def serve_command(executable: Sequence[str], config: Path | None) -> list[str]:
    """Return the command that starts the service from a unit, with absolute paths."""
    return [*executable, "serve", *(["--config", str(config.absolute())] if config else [])]


def _listen_stream(address: Address) -> str:
    if address.path:
        return address.path
    if not address.port:
        raise ConfigError("a socket unit needs a fixed port: server.port is 0")
    host = "127.0.0.1" if address.host == "localhost" else address.host  # systemd.socket(5) takes no host names
    return f"[{host}]:{address.port}" if ":" in host else f"{host}:{address.port}"


def _fill(file: str, **values: str) -> str:
    text = resources.files(__name__).joinpath(file).read_text("utf-8")
    return re.sub(r"@([a-z_]+)@", lambda found: values[found[1]], text)


def _literal(text: str) -> str:
    return text.replace("%", "%%")  # systemd.unit(5), "Specifiers"


def _quoted(word: str) -> str:
    """Quote a word as in "Command lines" of systemd.service(5), so that it arrives unchanged."""
    word = _literal(word)
    if re.fullmatch(r"[\w@%+=:,./-]+", word, re.ASCII):
        return word
    escaped = re.sub(r'[\\"]', r"\\\g<0>", word).replace("\n", r"\n")
    return f'"{escaped}"'
