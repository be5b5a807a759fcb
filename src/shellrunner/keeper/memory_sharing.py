"""What the fork server does before its first fork, so that keepers share as many of its memory pages as possible.

A page stays shared until one side writes to it, and an interpreter writes wherever it reads: reference counts, caches
of lookups, specialized bytecode. Together this leaves three quarters of a keeper's private memory. Must not know what
is forked, or when.
"""

import gc
import os
import socket
from contextlib import closing, suppress

from .identity import ProcessIdentity
from .loop import Keeper
from .protocol import Message, pack
from .slot import SlotWriter

_WARM_UP: Message = {
    "do": "start", "job": 1, "token": "warm-up", "argv": ["/bin/sh", "-c", "echo; echo >&2"], "cwd": "/", "env": {},
    "stdin": None, "timeout": 1.0, "grace": 0, "kill_only": True, "merge_stderr": False, "leave_children": False,
    "output_bytes": 4096,
}  # fmt: skip
# Of the interpreter's allocator for small objects (Objects/obmalloc.c): blocks of one size share a pool.
_POOL_SIZE, _POOL_HEADER = 16_384, 48
_BLOCK_SIZES = range(16, 513, 16)
_MAX_FILLED = 32_768  # bytes for each size; some 15,000 are needed


def prepare(state: int) -> list[object]:
    """Do what can be done; return objects that must be kept as long as there are forks.

    Args:
        state: the state directory's descriptor; nothing is written there.
    """
    with suppress(Exception):  # keepers work without it, and need more memory
        _warm_up(state)
    gc.collect()
    fillers = _fill_pools()
    gc.freeze()  # the collector would write to every object
    return fillers


def _warm_up(state: int) -> None:
    """Run a command with a keeper in this process, so that the interpreter's caches are filled for all of them.

    Ten of them would save another twentieth of a keeper's memory, and cost 9 ms of CPU time at each start.
    """
    slot = SlotWriter(os.memfd_create("slot", os.MFD_CLOEXEC))
    listener, channel = socket.socketpair()  # nobody connects
    identity = ProcessIdentity.from_pid(os.getpid()).to_dict()
    slot.write_header({"identity": identity})
    keeper = Keeper(state, slot, listener, {"identity": identity}, channel)
    ours, theirs = socket.socketpair()
    with closing(ours):
        keeper.work_for(theirs)
        ours.sendall(pack(_WARM_UP))
        ours.shutdown(socket.SHUT_WR)
        keeper.run()
    os.close(slot.fd)
    listener.close()
    channel.close()


def _fill_pools() -> list[object]:
    """Fill the gaps that imports have left in the allocator's pools, and return what they are filled with.

    They are all over the pages that are shared. A keeper's short-lived objects would be put there, each of which
    costs it a copy of a page. With no gaps left they are put together, into new pools.
    """
    fillers: list[object] = []
    for size in _BLOCK_SIZES:
        for _ in range(_MAX_FILLED // size):
            filler = _make_object(size)
            if id(filler) % _POOL_SIZE == _POOL_HEADER:  # the first one in a new pool
                break
            fillers.append(filler)
    return fillers


def _make_object(size: int) -> object:
    """Return a new object of about `size` bytes, rounded up to a multiple of 16."""
    match size:
        case 16:
            return object()
        case 32:
            return float(size)
        case _:
            return bytes(size - b"".__sizeof__())
