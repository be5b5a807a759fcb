"""Settings of `[profiles.NAME]`: what a confined command may see and do.

Named as in systemd.exec(5), which has each of them. Must not know how a profile is applied (see
`supervisor.confinement`).
"""

import re
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field

from shellrunner.config.types import EncodablePath, Section

# What a command without privileges hardly ever needs, and what earlier faults of the kernel were in. As systemd's
# groups of these names (`systemd-analyze syscall-filter`), for the architectures that the service runs on.
SYSTEM_CALL_GROUPS: Final = {
    "@bpf": ("bpf",),
    "@clock": ("adjtimex", "clock_adjtime", "clock_settime", "settimeofday"),
    "@cpu-emulation": ("modify_ldt", "vm86", "vm86old"),
    "@debug": (
        *("lookup_dcookie", "perf_event_open", "pidfd_getfd", "process_madvise", "process_vm_readv"),
        *("process_vm_writev", "ptrace", "kcmp"),
    ),
    "@io-uring": ("io_uring_enter", "io_uring_register", "io_uring_setup"),
    "@keyring": ("add_key", "keyctl", "request_key"),
    "@module": ("delete_module", "finit_module", "init_module"),
    "@mount": (
        *("chroot", "fsconfig", "fsmount", "fsopen", "fspick", "mount", "mount_setattr", "move_mount", "open_tree"),
        *("pivot_root", "umount", "umount2"),
    ),
    "@obsolete": (
        *("_sysctl", "create_module", "get_kernel_syms", "nfsservctl", "query_module", "sysfs", "uselib", "ustat"),
        *("vserver",),
    ),
    "@raw-io": ("ioperm", "iopl", "pciconfig_iobase", "pciconfig_read", "pciconfig_write"),
    "@reboot": ("kexec_file_load", "kexec_load", "reboot"),
    "@swap": ("swapoff", "swapon"),
}
_DENIED: Final = [
    *("~@bpf", "~@clock", "~@cpu-emulation", "~@io-uring", "~@keyring", "~@module", "~@mount", "~@obsolete"),
    *("~@raw-io", "~@reboot", "~@swap", "~perf_event_open", "~userfaultfd"),
]
_KERNEL_FILE_SYSTEMS: Final = ("/proc", "/dev", "/sys")


def _profile_path(path: Path) -> Path:
    text = str(path)
    if text == "/" or ".." in path.parts:
        raise ValueError("must be a path below /, without ..")
    if any(text == top or text.startswith(f"{top}/") for top in _KERNEL_FILE_SYSTEMS):
        raise ValueError(
            f"must not be in {', '.join(_KERNEL_FILE_SYSTEMS)}, which every profile replaces or protects"
        )
    return path


def _system_calls(names: list[str]) -> list[str]:
    if any(name.startswith("~") for name in names) != all(name.startswith("~") for name in names):
        raise ValueError("must be a list of denied ones, each with ~ before it, or of allowed ones, none with ~")
    for name in names:
        plain = name.removeprefix("~")
        if plain.startswith("@") and plain not in SYSTEM_CALL_GROUPS:
            raise ValueError(f"{plain} is not one of the groups {', '.join(SYSTEM_CALL_GROUPS)}")
        if not re.fullmatch("@?[a-z_][a-z0-9_-]*", plain, re.ASCII):
            raise ValueError(f"{name!r} is not the name of a system call")
    return names


ProfilePath = Annotated[EncodablePath, AfterValidator(_profile_path)]


class Profile(Section):
    """A profile. Whatever it says, commands have their own processes, /dev, IPC and /run, and gain no privileges.

    Everything is visible and read-only that is not named. Of paths within each other the innermost counts.
    """

    writable_paths: list[ProfilePath] = Field(
        default_factory=list, description="paths that commands may change, as far as file permissions allow"
    )
    read_only_paths: list[ProfilePath] = Field(
        default_factory=list, description="paths that are visible and read-only within writable or hidden ones"
    )
    hidden_paths: list[ProfilePath] = Field(
        default_factory=lambda: [Path(path) for path in ("/home", "/root") if Path(path).is_dir()],
        description="paths that appear empty; default: /home and /root",
    )
    private_tmp: bool = Field(True, description="whether /tmp and /var/tmp are empty, writable and end with the job")
    network: bool = Field(False, description="whether commands have the network, loopback included")
    no_new_privileges: Literal[True] = Field(
        True, description="always true: no program gains privileges, neither by setuid nor by file capabilities"
    )
    system_calls: Annotated[list[str], AfterValidator(_system_calls)] = Field(
        default_factory=lambda: list(_DENIED),
        description="system calls and groups of them: denied ones, each with ~ before it, or the only allowed ones; "
        "empty: all",
    )

    @property
    def filters_system_calls(self) -> bool:
        """Whether there is a filter of system calls."""
        return bool(self.system_calls)

    @property
    def denies_system_calls(self) -> bool:
        """Whether the named system calls are the denied ones, not the allowed ones."""
        return self.system_calls[0].startswith("~")

    @property
    def named_system_calls(self) -> list[str]:
        """The names of system calls, without groups."""
        plain = [name.removeprefix("~") for name in self.system_calls]
        return [each for name in plain for each in SYSTEM_CALL_GROUPS.get(name, (name,))]
