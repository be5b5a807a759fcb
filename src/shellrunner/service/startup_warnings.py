"""What is dangerous about how the service was started: it starts all the same, and its log says so, loudly.

Owned by the composition root, at the start.
"""

import logging
import os
import resource
from collections.abc import Iterator

from aiohttp import http_parser

from shellrunner.config import AuthSettings, Settings

log = logging.getLogger("shellrunner.service")


def tell(settings: Settings) -> None:
    """Warn of each."""
    for words in (*of_python(), *of_root(settings.auth, os.geteuid()), *of_descriptors(settings)):
        log.warning(words)


def of_python() -> Iterator[str]:
    """What this interpreter, or what is installed for it, does less well than it should."""
    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        yield (
            "HTTP is read by aiohttp's parser in Python, which is slower and less strict than the one in C that this "
            "service is meant for: unset AIOHTTP_NO_EXTENSIONS, or install aiohttp from a wheel"
        )
    if not __debug__:
        yield "python -O leaves out the checks by which a bug is noticed before it does harm: start without it"


def of_root(auth: AuthSettings, uid: int) -> Iterator[str]:
    """Whose commands run as root."""
    if uid != 0:
        return
    if not auth.tokens:
        yield "commands run as root: have the service run as another user, or make tokens with run_as"
    elif free := [token.name for token in auth.tokens if token.run_as is None]:
        yield f"commands of these tokens run as root: {', '.join(free)}; give them a run_as"


def of_descriptors(settings: Settings) -> Iterator[str]:
    """Whether so many connections as may be open leave enough for running commands."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = settings.server.max_connections + 4 * settings.supervisor.max_running + 100
    if most != resource.RLIM_INFINITY and most < needed:
        yield (
            f"only {most} files may be open, and server.max_connections with supervisor.max_running may need "
            f"{needed}: raise the limit (LimitNOFILE= in a unit), or lower these"
        )
