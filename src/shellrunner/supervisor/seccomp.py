"""Compile lists of system calls to filters for seccomp(2), by libseccomp.

Used by `confinement`. The filter is for the machine's own architecture: a system call by another one's convention
(i386 or x32 on x86-64) ends the process with SIGSYS, since its number would mean another call.
"""

import ctypes
import errno
import os
from collections.abc import Iterable
from typing import Final

_LIBRARY: Final = "libseccomp.so.2"
_ALLOW: Final = 0x7FFF0000  # SCMP_ACT_ALLOW
_DENY: Final = 0x00050000 | errno.EPERM  # SCMP_ACT_ERRNO(EPERM)
_UNKNOWN: Final = -1  # __NR_SCMP_ERROR; other negative numbers: a call of other architectures
# What bubblewrap and the start of a program need, once the filter applies.
_ALWAYS_ALLOWED: Final = ("execve", "exit", "exit_group", "rt_sigreturn", "write")


class CannotFilter(Exception):
    """The filter could not be made; the text says why."""


def compile_filter(names: Iterable[str], *, deny: bool) -> bytes:
    """Return the program of a filter that denies these system calls, or all others, with EPERM.

    Raises:
        CannotFilter: a name is not known, or there is no libseccomp.
    """
    library = _load()
    context = library.seccomp_init(_ALLOW if deny else _DENY)
    if not context:
        raise CannotFilter("libseccomp does not know this architecture")
    try:
        for name in (*names, *(() if deny else _ALWAYS_ALLOWED)):
            _add(library, context, name, _DENY if deny else _ALLOW)
        return _export(library, context)
    finally:
        library.seccomp_release(context)


def _load() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError:
        raise CannotFilter(f"needs {_LIBRARY}: install libseccomp2, or set system_calls = []") from None
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = (ctypes.c_uint32,)
    library.seccomp_release.argtypes = (ctypes.c_void_p,)
    library.seccomp_rule_add_array.argtypes = (
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.c_void_p,
    )
    library.seccomp_export_bpf.argtypes = (ctypes.c_void_p, ctypes.c_int)
    return library


def _add(library: ctypes.CDLL, context: int, name: str, action: int) -> None:
    number = library.seccomp_syscall_resolve_name(name.encode())
    if number == _UNKNOWN:
        raise CannotFilter(f"{name!r} is not a system call that libseccomp knows")
    if number >= 0 and (failed := library.seccomp_rule_add_array(context, action, number, 0, None)):
        raise CannotFilter(f"{name!r}: {os.strerror(-failed)}")


def _export(library: ctypes.CDLL, context: int) -> bytes:
    file = os.memfd_create("seccomp")
    try:
        if failed := library.seccomp_export_bpf(context, file):
            raise CannotFilter(f"cannot compile it: {os.strerror(-failed)}")
        return os.pread(file, os.fstat(file).st_size, 0)
    finally:
        os.close(file)
