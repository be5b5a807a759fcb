"""Another user than the one who tests: root can become one, others cannot."""

import os
import pwd
import shlex
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

NOBODY = pwd.getpwnam("nobody")
# The kernel reports `nobody` for every user that it cannot name, so a service of `nobody` serves nobody.
ORDINARY = pwd.getpwnam("daemon")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: nobody else can become another user")
sees_keepers = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: keepers hide their descriptors from others")
as_others = pytest.mark.skipif(
    os.geteuid() == 0, reason="root may look into everything: test_all_of_this_holds_for_another_user runs it"
)

UNREACHABLE = 77  # the exit status of `as_user`


def as_user(user: pwd.struct_passwd, scratch: Path, command: Sequence[object]) -> list[str]:
    """Return the argv by which root runs `command` as a user who can reach Python and these tests, wherever they lie.

    What lies in a closed home is shown there in a mount namespace of the command's own, by way of `scratch`.
    """
    needed = {Path(sys.base_prefix), Path(sys.prefix), Path(__file__).parents[2]}
    closed = {path: top for path in needed if (top := _closed(path))}
    mounts = [f"mount --rbind {shlex.quote(str(path))} {_there(scratch, path)}" for path in closed]
    mounts += [f"mount --rbind {_there(scratch, top)} {shlex.quote(str(top))}" for top in set(closed.values())]
    for path in closed:
        Path(_there(scratch, path)).mkdir(parents=True, exist_ok=True)
    become = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", *map(str, command)]
    prepared = "".join(f"{mount} || exit {UNREACHABLE}; " for mount in mounts)
    shell = ["sh", "-c", f"{prepared}exec {shlex.join(become)}"]
    return ["unshare", "--mount", *shell] if mounts else shell


def _closed(path: Path) -> Path | None:
    """Return the outermost directory on the way to `path` that only some may enter."""
    return next((part for part in [*reversed(path.parents), path] if not part.stat().st_mode & stat.S_IXOTH), None)


def _there(scratch: Path, path: Path) -> str:
    return f"{scratch}{path}"


# Tries what a process may want of another: to read its environment and memory, to take its descriptors, to trace it.
# For each pid that it is given it prints a line: the pid, and what it could do.
PROBE = r"""
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
def called(value):
    if value < 0:
        raise OSError(ctypes.get_errno(), "refused")
def opened(name):
    return lambda pid: os.close(os.open(f"/proc/{pid}/" + name.format(pid), os.O_RDONLY))
def written(pid):
    os.close(os.open(f"/proc/{pid}/mem", os.O_RDWR))
def descriptors(pid):
    return os.listdir(f"/proc/{pid}/fd")
def descriptor(pid):
    os.readlink(f"/proc/{pid}/fd/0")
def directory(pid):
    os.readlink(f"/proc/{pid}/cwd")
def attached(pid):
    called(libc.ptrace(16, pid, 0, 0))
def seized(pid):
    called(libc.ptrace(0x4206, pid, 0, 0))
def peeked(pid):
    here = ctypes.create_string_buffer(8)
    mine, other = Vector(ctypes.addressof(here), 8), Vector(ctypes.addressof(here), 8)
    called(libc.process_vm_readv(pid, ctypes.byref(mine), 1, ctypes.byref(other), 1, 0))
def taken(pid):
    pidfd = os.pidfd_open(pid)
    called(libc.syscall(438, pidfd, 0, 0))  # pidfd_getfd(2)
tries = [opened(name) for name in ("environ", "mem", "maps", "auxv", "stack", "io", "task/{0}/environ")]
tries += [written, descriptors, descriptor, directory, peeked, taken, attached, seized]
def probe(pid):
    for number, attempt in enumerate(tries):
        try:
            attempt(pid)
            yield number
        except OSError:
            pass
for pid in map(int, sys.argv[1:]):
    print(pid, *probe(pid))
"""
