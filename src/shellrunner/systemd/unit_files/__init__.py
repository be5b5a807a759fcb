"""The units by which systemd starts the service, and listens for it; the files beside this one are their text.

Owned by the command line. Must not know jobs, HTTP, SQL, or what systemd is told later.
"""

import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Final, Literal, NamedTuple

from shellrunner.config import Address
from shellrunner.errors import ConfigError

Hardening = Literal["strict", "sudo"]

# What root needs to run commands as others, and to end them: capabilities(7).
_AS_OTHERS: Final = (
    "CAP_SETUID CAP_SETGID CAP_KILL CAP_CHOWN CAP_FOWNER CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_SYS_PTRACE"
)
_PRICE: Final = {
    "": "Costs ports below 1024, ping without net.ipv4.ping_group_range, and what else files have capabilities for.",
    _AS_OTHERS: "What it takes to run commands as others (run_as); those that run as root have no more than this.",
}


class ServiceAccount(NamedTuple):
    """Whom a unit runs as."""

    user: str
    group: str


def service(command: Sequence[str], owner: ServiceAccount, hardening: Hardening) -> str:
    """Return the unit that runs `command` (the first word an absolute path)."""
    program, *arguments = command
    # systemd.service(5): variables are put in for $NAME in the arguments, but not in the program's name.
    words = " ".join([_quoted(program), *(_quoted(word).replace("$", "$$") for word in arguments)])
    capabilities = _AS_OTHERS if owner.user == "root" else ""
    harder = _filled(hardening, capabilities=capabilities, capabilities_price=_PRICE[capabilities])
    whom = {"user": _literal(owner.user), "group": _literal(owner.group)}
    return _filled("shellrunner.service", hardening=harder, command=words, **whom)


def socket(addresses: Sequence[Address], mode: str, owner: ServiceAccount) -> str:
    """Return the unit by which systemd listens on these addresses for the service.

    Raises:
        ConfigError: one of them has no port of its own.
    """
    lines = [f"ListenStream={_literal(_stream(address))}" for address in addresses]
    if any(address.path for address in addresses):
        lines += ["# Who may connect to a Unix socket.", f"SocketMode={mode}"]
        lines += [f"SocketUser={_literal(owner.user)}", f"SocketGroup={_literal(owner.group)}"]
    return _filled("shellrunner.socket", listen="\n".join(lines))


def serve_command(executable: Sequence[str], config: Path | None) -> list[str]:
    """Return the words that start the service from a unit, where no working directory can be relied on."""
    return [*executable, "serve", *(["--config", str(config.absolute())] if config else [])]


def _stream(address: Address) -> str:
    if address.path:
        return address.path
    if not address.port:
        raise ConfigError("a socket unit needs a port that is known: server.port is 0")
    host = "127.0.0.1" if address.host == "localhost" else address.host  # systemd.socket(5) has no names
    return f"[{host}]:{address.port}" if ":" in host else f"{host}:{address.port}"


def _filled(file: str, **values: str) -> str:
    text = resources.files(__name__).joinpath(file).read_text("utf-8")
    return re.sub(r"@([a-z_]+)@", lambda found: values[found[1]], text)


def _literal(text: str) -> str:
    return text.replace("%", "%%")  # systemd.unit(5), "Specifiers"


def _quoted(word: str) -> str:
    """The word as systemd.service(5), "Command lines", wants it, so that it arrives as it is."""
    word = _literal(word)
    if re.fullmatch(r"[\w@%+=:,./-]+", word, re.ASCII):
        return word
    escaped = re.sub(r'[\\"]', r"\\\g<0>", word).replace("\n", r"\n")
    return f'"{escaped}"'
