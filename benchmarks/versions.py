"""Versions of the service: the sources here, and an earlier commit in a temporary work tree.

Both run under this interpreter with its packages, with PYTHONPATH set to their sources, so that nothing but the
sources differs.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
_VENDOR = Path("src/shellrunner/page/vendor")  # in no commit: the build puts it there (hatch_build.py)
_MAIN = "import sys; from shellrunner.__main__ import main; sys.exit(main())"


@dataclass(frozen=True, slots=True)
class Version:
    """The sources of one version."""

    name: str
    source: Path

    def command(self, *arguments: str) -> list[str]:
        """Return the command line of the program, as its console script would run it."""
        return [sys.executable, "-P", "-c", _MAIN, *arguments]

    def environment(self, **settings: object) -> dict[str, str]:
        """Return the environment of the program: `settings` are variables without their prefix, HOME apart."""
        kept = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
        variables = {f"SHELLRUNNER_{name}": str(value) for name, value in settings.items()}
        return {**kept, "LANG": "C.UTF-8", "HOME": "/nonexistent", "PYTHONPATH": str(self.source), **variables}

    def run_module(self, module: str, arguments: Sequence[str]) -> None:
        """Run a module of the benchmarks with the sources of this version."""
        path = os.pathsep.join((str(self.source), str(ROOT)))
        subprocess.run(
            [sys.executable, "-P", "-m", module, *arguments],
            check=True,
            env=self.environment() | {"PYTHONPATH": path},
        )


CURRENT = Version("shellrunner", ROOT / "src")


@contextmanager
def checked_out(commit: str, directory: Path) -> Iterator[Version]:
    """Check a commit out into a work tree below the directory, for as long as the context lasts."""
    tree = directory / "before"
    _git("worktree", "add", "--quiet", "--detach", str(tree), commit)
    try:
        if (ROOT / _VENDOR).exists() and not (tree / _VENDOR).exists():
            shutil.copytree(ROOT / _VENDOR, tree / _VENDOR)
        name = _git("-C", str(tree), "rev-parse", "--short", "HEAD")
        yield Version(name, tree / "src")
    finally:
        _git("worktree", "remove", "--force", str(tree))


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip()
