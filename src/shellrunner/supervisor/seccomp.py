"""Compile lists of system calls to filters for seccomp(2), by libseccomp.

Used by `confinement`. The filter is for the machine's own architecture: a system call by another one's convention
(i386 or x32 on x86-64) ends the process with SIGSYS, since its number would mean another call.

Whatever a filter names, it lets nobody make a setuid or setgid file: another user could run it, and have the power of
the command's user without any profile. Without the network it lets nobody make a socket that is not confined by a
network namespace, such as one to the host of a virtual machine (vsock(7)).
"""

import ctypes
import errno
import os
import socket
import stat
from collections.abc import Iterable
from typing import Final, NamedTuple

_LIBRARY: Final = "libseccomp.so.2"
_ALLOW: Final = 0x7FFF0000  # SCMP_ACT_ALLOW
_DENY: Final = 0x00050000 | errno.EPERM  # SCMP_ACT_ERRNO(EPERM)
_LACK: Final = 0x00050000 | errno.ENOSYS
_UNKNOWN: Final = -1  # __NR_SCMP_ERROR; other negative numbers: a call of other architectures
# What bubblewrap and the start of a program need, once the filter applies.
_ALWAYS_ALLOWED: Final = ("execve", "exit", "exit_group", "rt_sigreturn", "write")

_EQUAL, _AT_LEAST, _MASKED_EQUAL = 4, 5, 7  # enum scmp_compare


class _Condition(ctypes.Structure):
    """struct scmp_arg_cmp: a comparison of an argument; with _MASKED_EQUAL, `a` is the mask."""

    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    )


class _Restricted(NamedTuple):
    """A system call that is not allowed with all arguments: any of these groups of conditions denies or allows it."""

    name: str
    denied: tuple[tuple[_Condition, ...], ...]
    allowed: tuple[tuple[_Condition, ...], ...]


def _bits(argument: int, mask: int, value: int) -> _Condition:
    return _Condition(argument, _MASKED_EQUAL, mask, value)


def _with_mode(name: str, argument: int) -> _Restricted:
    """Return a call that sets a file's mode."""
    denied = tuple((_bits(argument, bit, bit),) for bit in _SET_ID_BITS)
    return _Restricted(name, denied, ((_bits(argument, sum(_SET_ID_BITS), 0),),))


def _opening(name: str, flags: int) -> _Restricted:
    """Return a call that sets a file's mode if it makes one; the mode stands behind the flags."""
    mode = flags + 1
    denied = tuple(
        (_bits(flags, making, making), _bits(mode, bit, bit)) for making in _MAKING_FLAGS for bit in _SET_ID_BITS
    )
    allowed = ((_bits(mode, sum(_SET_ID_BITS), 0),), (_bits(flags, sum(_MAKING_FLAGS), 0),))
    return _Restricted(name, denied, allowed)


_SET_ID_BITS: Final = (stat.S_ISUID, stat.S_ISGID)
_MAKING_FLAGS: Final = (os.O_CREAT, os.O_TMPFILE & ~os.O_DIRECTORY)
_FILES: Final = (
    *(_with_mode("chmod", 1), _with_mode("fchmod", 1), _with_mode("fchmodat", 2), _with_mode("fchmodat2", 2)),
    *(_with_mode("creat", 1), _with_mode("mknod", 1), _with_mode("mknodat", 2)),
    *(_opening("open", 1), _opening("openat", 2)),
)
# Its mode is in memory, where a filter cannot read it. As of a kernel that lacks it: then programs use openat.
_UNREADABLE: Final = "openat2"
_NEW_NUMBERS: Final = {"fchmodat2": 452}  # the same for every architecture; libseccomp may be older than the kernel
_FAMILIES: Final = (socket.AF_UNSPEC, socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK)
_SOCKETS: Final = _Restricted(
    "socket",
    (
        *((_Condition(0, _EQUAL, each, 0),) for each in range(max(_FAMILIES)) if each not in _FAMILIES),
        (_Condition(0, _AT_LEAST, max(_FAMILIES) + 1, 0),),
    ),
    tuple((_Condition(0, _EQUAL, each, 0),) for each in _FAMILIES),
)


class CannotFilter(Exception):
    """The filter could not be made; the text says why."""


def compile_filter(names: Iterable[str], *, deny: bool, network: bool = False) -> bytes:
    """Return the program of a filter that denies these system calls, or all others, with EPERM.

    `network` says whether sockets of every family may be made.

    Raises:
        CannotFilter: a name is not known, or there is no libseccomp.
    """
    library = _load()
    context = library.seccomp_init(_ALLOW if deny else _DENY)
    if not context:
        raise CannotFilter("libseccomp does not know this architecture")
    try:
        named = {*names, *(() if deny else _ALWAYS_ALLOWED)}
        restricted = {each.name: each for each in (*_FILES, *(() if network else (_SOCKETS,)))}
        for name in sorted(named - {_UNREADABLE} if deny else named - {_UNREADABLE, *restricted}):
            _add(library, context, name, _DENY if deny else _ALLOW)
        for name in sorted(restricted.keys() - named if deny else restricted.keys() & named):
            for conditions in restricted[name].denied if deny else restricted[name].allowed:
                _add(library, context, name, _DENY if deny else _ALLOW, *conditions)
        _add(library, context, _UNREADABLE, _LACK)
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


def _add(library: ctypes.CDLL, context: int, name: str, action: int, *conditions: _Condition) -> None:
    number = library.seccomp_syscall_resolve_name(name.encode())
    if number == _UNKNOWN:
        number = _NEW_NUMBERS.get(name, _UNKNOWN)
    if number == _UNKNOWN:
        raise CannotFilter(f"{name!r} is not a system call that libseccomp knows")
    array = (_Condition * len(conditions))(*conditions)
    count = len(conditions)
    if number >= 0 and (failed := library.seccomp_rule_add_array(context, action, number, count, array)):
        raise CannotFilter(f"{name!r}: {os.strerror(-failed)}")


def _export(library: ctypes.CDLL, context: int) -> bytes:
    file = os.memfd_create("seccomp")
    try:
        if failed := library.seccomp_export_bpf(context, file):
            raise CannotFilter(f"cannot compile it: {os.strerror(-failed)}")
        return os.pread(file, os.fstat(file).st_size, 0)
    finally:
        os.close(file)
