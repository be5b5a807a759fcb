"""Versions of the service: the sources here, and an earlier commit in a temporary work tree.

The earlier one has a virtual environment of its own, as it may depend on other packages; those that both have are
installed in the same versions. PYTHONPATH is set to the sources, so that nothing else differs.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parent.parent
_VENDOR = Path("src/shellrunner/page/vendor")  # in no commit: the build puts it there (hatch_build.py)
_MAIN = "import sys; from shellrunner.__main__ import main; sys.exit(main())"


@dataclass(frozen=True, slots=True)
class Version:
    """The sources of one version."""

    name: str
    source: Path
    python: str = sys.executable

    def command(self, *arguments: str) -> list[str]:
        """Return the command line of the program, as its console script would run it."""
        return [self.python, "-P", "-c", _MAIN, *arguments]

    def environment(self, **settings: object) -> dict[str, str]:
        """Return the environment of the program: `settings` are variables without their prefix, HOME apart."""
        kept = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
        variables = {f"SHELLRUNNER_{name}": str(value) for name, value in settings.items()}
        return {**kept, "LANG": "C.UTF-8", "HOME": "/nonexistent", "PYTHONPATH": str(self.source), **variables}

    def run_module(self, module: str, arguments: Sequence[str]) -> None:
        """Run a module of the benchmarks with the sources of this version."""
        path = os.pathsep.join((str(self.source), str(ROOT)))
        subprocess.run(
            [self.python, "-P", "-m", module, *arguments],
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
        yield Version(name, tree / "src", _environment_of(tree, directory))
    finally:
        _git("worktree", "remove", "--force", str(tree))


def _environment_of(tree: Path, directory: Path) -> str:
    """Create a virtual environment with what the sources require; return its interpreter."""
    python = str(directory / "environment" / "bin" / "python")
    subprocess.run([sys.executable, "-m", "venv", str(directory / "environment")], check=True)
    here = [f"{each.name}=={each.version}" for each in metadata.distributions() if each.name != "shellrunner"]
    constraints = directory / "constraints.txt"
    constraints.write_text("\n".join(here))
    subprocess.run([python, "-m", "pip", "install", "-q", "-c", str(constraints), f"{tree}[cluster]"], check=True)
    return python


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip()
