"""Run the bare aiohttp server."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks.process_tree import ProcessTree, running

_PROGRAM = Path(__file__).with_name("bare_server.py")


class BareServer(NamedTuple):
    """A bare server that listens."""

    tree: ProcessTree
    port: int


@contextmanager
def bare_serving(directory: Path, body: bytes = b"") -> Iterator[BareServer]:
    """Serve `body` at GET /, and what a request has at POST /, for as long as the context lasts."""
    with tempfile.NamedTemporaryFile(dir=directory) as file:
        file.write(body)
        file.flush()
        with running([sys.executable, str(_PROGRAM), file.name], stdout=subprocess.PIPE) as tree:
            yield BareServer(tree, int(tree.stdout.readline()))
