"""Profiles as bubblewrap's arguments, for the keeper; and a check at the start that they can be applied at all.

Made by the composition root, used by the job runner. Must not know how a keeper starts a command (`keeper.sandbox`).
A job whose profile cannot be applied is never started without it.
"""

import base64
import os
import shutil
import stat
import subprocess
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import PurePath
from typing import Any, Final, NamedTuple

from shellrunner.config.profiles import Profile
from shellrunner.errors import ConfigError
from shellrunner.supervisor import seccomp
from shellrunner.supervisor.users import UserAccount

_PROGRAM: Final = "bwrap"
_PATH: Final = "/usr/local/bin:/usr/bin:/bin"
_CHECK_TIMEOUT: Final = 20.0  # seconds
# Sockets of other services, among them D-Bus, through which systemd would run commands for the user, and Docker's.
_ALWAYS_HIDDEN: Final = "/run"
_TEMPORARY: Final = ("/tmp", "/var/tmp")  # noqa: S108  they are made private
_RESOLVER: Final = "/etc/resolv.conf"  # often a link into /run
# The keeper does both for itself: `keeper.sandbox`.
_CHECK_OPTIONS: Final = ("--unshare-user", "--disable-userns", "--unshare-pid", "--as-pid-1")
_CHECK_COMMAND: Final = ("/bin/sh", "-c", ":")


class UnknownProfile(Exception):
    """The configuration has no such profile (any more); the text is for `detail`."""


class _Rule(NamedTuple):
    """How a path is mounted: hidden, temporary, read-only or writable."""

    path: str
    kind: str


class Confinement:
    """The profiles of the configuration."""

    def __init__(self, profiles: Mapping[str, Profile], own_paths: Collection[str] = ()) -> None:
        """Take the profiles; hide `own_paths`, the service's own files, from commands of the service's user.

        Raises:
            ConfigError: there is no bubblewrap, a profile's system calls cannot be filtered, or it shows own paths;
                one line for each.
        """
        self._profiles = profiles
        self._own_paths = [os.path.realpath(path) for path in own_paths if os.path.exists(path)]
        self._bwrap = shutil.which(_PROGRAM, path=_PATH) or ""
        self._filters: dict[str, str] = {}
        errors = [*self._compile_filters(), *self._exposures()]
        if profiles and not self._bwrap:
            errors.append(f"profiles: need bubblewrap, and there is no {_PROGRAM} in {_PATH}: install bubblewrap")
        if errors:
            raise ConfigError("\n".join(errors))

    def _compile_filters(self) -> Iterator[str]:
        for name, profile in self._profiles.items():
            self._filters[name] = ""
            if profile.filters_system_calls:
                try:
                    program = seccomp.compile_filter(
                        profile.named_system_calls, deny=profile.denies_system_calls, network=profile.network
                    )
                    self._filters[name] = base64.b64encode(program).decode()
                except seccomp.CannotFilter as error:
                    yield f"profiles.{name}.system_calls: {error}"

    def _exposures(self) -> Iterator[str]:
        for name, profile in self._profiles.items():
            for key in ("writable_paths", "read_only_paths"):
                for path in getattr(profile, key):
                    for own in self._own_paths:
                        if PurePath(os.path.realpath(path)).is_relative_to(own):
                            yield f"profiles.{name}.{key}: {path} is in {own}, which only the service itself may use"

    def sandbox(self, name: str, account: UserAccount) -> dict[str, Any]:
        """Return the member `sandbox` of a `start` message.

        Raises:
            UnknownProfile: the configuration has no such profile.
        """
        profile = self._profiles.get(name)
        if profile is None:
            raise UnknownProfile(f"cannot start it under the profile {name}: the configuration has no such profile")
        arguments = bubblewrap_arguments(profile, account, self._own_paths)
        return {
            "profile": name,
            "bwrap": self._bwrap,
            "arguments": arguments,
            "system_calls": self._filters[name],
        }

    def check(self, name: str, account: UserAccount) -> str | None:
        """Return why the profile cannot be applied to commands of this user, or None if it can. Blocking."""
        sandbox = self.sandbox(name, account)
        if os.stat(self._bwrap).st_mode & stat.S_ISUID:
            return (
                f"{self._bwrap} is setuid root, which hides its namespaces from the service: chmod u-s {self._bwrap}"
            )
        program = os.memfd_create("seccomp")
        user = account.user or {}
        try:
            os.write(program, base64.b64decode(sandbox["system_calls"]))
            os.lseek(program, 0, os.SEEK_SET)
            filtered = ["--seccomp", str(program)] if sandbox["system_calls"] else []
            options = [*_CHECK_OPTIONS, *filtered, *sandbox["arguments"], "--chdir", "/", "--"]
            done = subprocess.run(
                [self._bwrap, *options, *_CHECK_COMMAND],
                stdin=subprocess.DEVNULL, capture_output=True, timeout=_CHECK_TIMEOUT, check=False, env={}, cwd="/",
                pass_fds=[program], user=user.get("uid"), group=user.get("gid"), extra_groups=user.get("groups"),
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        finally:
            os.close(program)
        if done.returncode == 0:
            return None
        return done.stderr.decode(errors="replace").strip() or f"bubblewrap ended with {done.returncode}"


def bubblewrap_arguments(profile: Profile, account: UserAccount, own_paths: Collection[str] = ()) -> list[str]:
    """Return the arguments that apply the profile to a command of this user.

    Of paths within each other the innermost counts, so they are mounted from the outermost on. What is hidden is an
    empty file system; it becomes read-only last, when the places in it are made for what is mounted there.
    """
    rules = _rules(profile, () if account.user else own_paths)
    arguments = ["--cap-drop", "ALL", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    arguments += [] if profile.network else ["--unshare-net"]
    arguments += ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
    if _is_root(account):
        # Settings of the kernel are root's by its uid alone, without a capability, and bubblewrap leaves /proc/sys
        # writable for it: by kernel.core_pattern the kernel would run a program outside, as root.
        arguments += ["--remount-ro", "/proc"]
    for path, kind in rules:
        match kind:
            case "hidden" if not os.path.isdir(path):
                arguments += ["--ro-bind", "/dev/null", path]  # not as a device: it cannot be opened
            case "hidden":
                arguments += ["--perms", "0555", "--tmpfs", path]
            case "temporary":
                arguments += ["--perms", "1777", "--tmpfs", path]
            case "read-only":
                arguments += ["--ro-bind", path, path]
            case _:
                arguments += ["--bind", path, path]
    arguments += _places(rules, account)
    for path, kind in rules:
        if kind == "hidden" and os.path.isdir(path):
            arguments += ["--remount-ro", path]
    return arguments


def _is_root(account: UserAccount) -> bool:
    return (os.geteuid() if account.user is None else account.user["uid"]) == 0


def _rules(profile: Profile, own_paths: Collection[str]) -> list[_Rule]:
    """Return the rules, the outermost path first; of two for one path the last counts."""
    kinds = {_ALWAYS_HIDDEN: "hidden"}
    if profile.private_tmp:
        kinds |= dict.fromkeys((path for path in _TEMPORARY if os.path.isdir(path)), "temporary")
    resolver = os.path.realpath(_RESOLVER)
    if profile.network and resolver.startswith(f"{_ALWAYS_HIDDEN}/") and os.path.exists(resolver):
        kinds[resolver] = "read-only"
    for paths, kind in (
        (profile.writable_paths, "writable"),
        (profile.read_only_paths, "read-only"),
        (profile.hidden_paths, "hidden"),
        (own_paths, "hidden"),
    ):
        # What a link leads to is what a path means; bubblewrap would follow links in the new root only.
        kinds |= dict.fromkeys((os.path.realpath(path) for path in paths), kind)
    return list(_pinned(sorted(kinds.items(), key=lambda item: item[0].count("/"))))


def _pinned(kinds: Iterable[tuple[str, str]]) -> Iterator[_Rule]:
    """Yield the rules, without those that change nothing, and with one for each directory between two of them.

    A command cannot move a directory on which something is mounted. It could move one further out that is writable:
    then the next command would not find the hidden path where it was, and see it where it is now.
    """
    rules: list[_Rule] = []
    for path, kind in kinds:
        outer = [rule for rule in rules if PurePath(path).is_relative_to(rule.path)]
        if outer and outer[-1].kind == kind == "hidden":
            continue
        if outer and outer[-1].kind == "writable" and kind != "writable":
            between = PurePath(path).relative_to(outer[-1].path).parts[:-1]
            rules += [
                _Rule(os.path.join(outer[-1].path, *between[: depth + 1]), "writable")
                for depth in range(len(between))
            ]
        rules.append(_Rule(path, kind))
    return iter(rules)


def _places(rules: list[_Rule], account: UserAccount) -> Iterator[str]:
    """Yield the arguments that make an empty home and working directory where they are hidden."""
    for path in dict.fromkeys((account.cwd, account.environment.get("HOME", "/"))):
        above = [rule for rule in rules if PurePath(path).is_relative_to(rule.path)]
        if above and above[-1].kind == "hidden" and path != above[-1].path:
            yield from ("--dir", path)
