"""Generate the systemd units of the service, its socket and a worker, from the templates beside this file.

Used by the command line and the installation. Must not know jobs, HTTP, SQL, or the notifications of a running
service.

The templates are `shellrunner.service`, `shellrunner.socket` and `shellrunner-worker.service`. Two fragments fill the
services': one of the account (`account-system` for the host's systemd, `account-user` for a user's own) and, for the
host's, one of the hardening (`hardening-strict`, `hardening-sudo`).
"""

import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Final, Literal, NamedTuple, get_args

from shellrunner.config import Address
from shellrunner.errors import ConfigError

Hardening = Literal["sudo", "strict"]
HARDENINGS: Final[tuple[Hardening, ...]] = get_args(Hardening)

# What root needs to run commands as other users, and to kill them: capabilities(7).
_RUN_AS_CAPABILITIES: Final = (
    "CAP_SETUID CAP_SETGID CAP_KILL CAP_CHOWN CAP_FOWNER CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_SYS_PTRACE"
)
_CAPABILITY_COMMENTS: Final = {
    "": "Breaks ports below 1024, ping without net.ipv4.ping_group_range, and other programs with file capabilities.",
    _RUN_AS_CAPABILITIES: "Needed for other users' commands (run_as); root commands have no other capabilities.",
}

# Without it, a start of the service alone would bind the addresses, and then the socket unit could not listen.
_SOCKETS: Final = (
    "# The socket unit is started first, and the service listens on its sockets.\nSockets=shellrunner.socket\n"
)

# Not in a user's own systemd instance, which may not lower the score.
_OOM_SCORE: Final = "# It kills commands, whose score is 0, before the server.\nOOMScoreAdjust=-500\n"

_DATABASE_URL: Final = re.compile(r"^#LoadCredential=database-url:.*$", re.MULTILINE)

# Where a unit is installed, and by which command it is controlled.
_SYSTEM_PLACE: Final = {"directory": "/etc/systemd/system", "systemctl": "systemctl"}
_USER_PLACE: Final = {"directory": "~/.config/systemd/user", "systemctl": "systemctl --user"}


class ServiceAccount(NamedTuple):
    """The user and group of a unit."""

    user: str
    group: str


def service_unit(
    command: Sequence[str],
    account: ServiceAccount,
    hardening: Hardening,
    database_url: Path | None = None,
    *,
    has_socket_unit: bool = False,
) -> str:
    """Return the service unit that runs `command`, whose first word is an absolute path.

    With `has_socket_unit` it listens on the sockets of the socket unit however it is started.
    `database_url`: the file that it gets as the credential `database-url`.
    """
    sockets = _SOCKETS if has_socket_unit else ""
    values = _system_values(account, hardening)
    text = _service(
        "shellrunner.service", command, sockets=sockets, target="multi-user.target", **values, **_SYSTEM_PLACE
    )
    return _with_database_url(text, database_url)


def worker_unit(
    command: Sequence[str], account: ServiceAccount, hardening: Hardening, database_url: Path | None = None
) -> str:
    """Return the service unit of a worker that runs `command`, whose first word is an absolute path.

    `database_url`: the file that it gets as the credential `database-url`.
    """
    text = _service("shellrunner-worker.service", command, **_system_values(account, hardening))
    return _with_database_url(text, database_url)


def _with_database_url(text: str, database_url: Path | None) -> str:
    if database_url is None:
        return text
    return _DATABASE_URL.sub(lambda _: f"LoadCredential=database-url:{_literal(str(database_url))}", text)


def user_service_unit(command: Sequence[str]) -> str:
    """Return the service unit for a user's own systemd instance, beside its socket unit; `command` as above."""
    values = {"account": _fill("account-user"), "hardening": "", "oom": "", "sockets": _SOCKETS}
    return _service("shellrunner.service", command, target="default.target", **values, **_USER_PLACE)


def _system_values(account: ServiceAccount, hardening: Hardening) -> dict[str, str]:
    capabilities = _RUN_AS_CAPABILITIES if account.user == "root" else ""
    comment = _CAPABILITY_COMMENTS[capabilities]
    lines = _fill(f"hardening-{hardening}", capabilities=capabilities, capabilities_comment=comment)
    account_lines = _fill("account-system", user=_literal(account.user), group=_literal(account.group))
    return {"account": account_lines, "hardening": f"{lines}\n", "oom": _OOM_SCORE}


def _service(template: str, command: Sequence[str], **values: str) -> str:
    program, *arguments = command
    # systemd.service(5): $NAME is replaced in the arguments, but not in the program's path.
    words = " ".join([_quoted(program), *(_quoted(word).replace("$", "$$") for word in arguments)])
    return _fill(template, command=words, **values)


def socket_unit(addresses: Sequence[Address], mode: str, account: ServiceAccount | None) -> str:
    """Return the socket unit with which systemd listens on these addresses.

    `account` owns the Unix sockets; None in a user's own systemd instance, whose user owns them.

    Raises:
        ConfigError: the port of one of them is 0.
    """
    lines = [f"ListenStream={_literal(stream)}" for address in addresses for stream in _listen_streams(address)]
    if any(address.path for address in addresses):
        lines += ["# Who may connect to a Unix socket.", f"SocketMode={mode}"]
        if account:
            lines += [f"SocketUser={_literal(account.user)}", f"SocketGroup={_literal(account.group)}"]
    return _fill("shellrunner.socket", listen="\n".join(lines), **(_SYSTEM_PLACE if account else _USER_PLACE))


def serve_command(executable: Sequence[str], config: Path | None, verb: str = "serve") -> list[str]:
    """Return the command that starts the service, or a worker, from a unit, with absolute paths."""
    return [*executable, verb, *(["--config", str(config.absolute())] if config else [])]


def _listen_streams(address: Address) -> list[str]:
    if address.path:
        return [address.path]
    if not address.port:
        raise ConfigError("a socket unit needs a fixed port: server.port is 0")
    # systemd.socket(5) takes no host names.
    hosts = ("127.0.0.1", "::1") if address.host == "localhost" else (address.host,)
    return [f"[{host}]:{address.port}" if ":" in host else f"{host}:{address.port}" for host in hosts]


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
