#!/usr/bin/env python3
"""Make a release: version, changelog, tag; then sdist, wheel and SHA256SUMS, without network and reproducibly.

python tools/release.py prepare 0.2.0    set the version, date the changelog, commit and tag
python tools/release.py build [DIR]      build HEAD into DIR (default: dist), twice, and compare

`build` needs hatchling and Sphinx (the dependency group `release`) and the page's files, which any installation from
this directory fetches once. The time in the archives is SOURCE_DATE_EPOCH, by default the time of the commit.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
VERSION_FILE: Final = "src/shellrunner/__init__.py"
CHANGELOG: Final = "CHANGELOG.md"
VENDOR: Final = "src/shellrunner/page/vendor"
_VERSION: Final = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+(?:(?:a|b|rc)[0-9]+)?")
_UNRELEASED: Final = "## [Unreleased]\n"
_WHEEL_HAS: Final = (
    r"shellrunner/page/vendor/xterm\.mjs",
    r"shellrunner/documentation/llms\.txt",
    r"shellrunner/documentation/html/index\.html",
    r"shellrunner/py\.typed",
    r"shellrunner-[^/]+\.dist-info/licenses/LICENSE",
    r"shellrunner-[^/]+\.dist-info/sboms/shellrunner\.cdx\.json",
    r"shellrunner-[^/]+\.data/data/share/man/man1/shellrunner\.1",
)
_IGNORED: Final = (".git", ".venv", "__pycache__", ".*_cache", "*.egg-info", "dist", "_build", ".hypothesis")


class ReleaseError(Exception):
    """The release cannot be made; the text says why."""


def main(arguments: list[str]) -> int:
    """Run a subcommand and return the exit code."""
    try:
        match arguments:
            case ["prepare", version]:
                prepare(version)
            case ["build"]:
                build(ROOT / "dist")
            case ["build", directory]:
                build(Path(directory).absolute())
            case _:
                print(__doc__)
                return 2
    except ReleaseError as error:
        print(f"release.py: {error}", file=sys.stderr)
        return 1
    return 0


def prepare(version: str) -> None:
    """Set the version, date the changelog, commit and tag.

    Raises:
        ReleaseError: the version is invalid or exists, the work tree has changes, or the changelog says nothing.
    """
    if not _VERSION.fullmatch(version):
        raise ReleaseError(f"invalid version {version!r}: expected for example 0.2.0 or 0.2.0rc1")
    if _git("status", "--porcelain", "--untracked-files=no"):
        raise ReleaseError("the work tree has changes: commit them first")
    if _git("tag", "--list", f"v{version}"):
        raise ReleaseError(f"the tag v{version} exists")
    changelog, today = (ROOT / CHANGELOG).read_text(), f"{datetime.now(UTC):%Y-%m-%d}"
    (ROOT / CHANGELOG).write_text(dated_changelog(changelog, version, today))
    path = ROOT / VERSION_FILE
    path.write_text(re.sub(r'(?m)^__version__ = ".*"$', f'__version__ = "{version}"', path.read_text()))
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    subprocess.run([sys.executable, ROOT / "tools" / "man_page.py"], check=True, env=environment)
    _git("commit", "-a", "-m", f"Release {version}")
    _git("tag", "-a", f"v{version}", "-m", f"shellrunner {version}")
    print(f"committed and tagged v{version}; next: python tools/release.py build")


def dated_changelog(text: str, version: str, today: str) -> str:
    """Return the changelog with the entries of "Unreleased" under the new version.

    Raises:
        ReleaseError: there are no entries, or the version has some already.
    """
    if f"## [{version}]" in text:
        raise ReleaseError(f"{CHANGELOG} has a section [{version}] already")
    before, heading, rest = text.partition(_UNRELEASED)
    if not heading:
        raise ReleaseError(f"{CHANGELOG} has no section [Unreleased]")
    entries = re.split(r"(?m)^## \[", rest, maxsplit=1)[0]
    if not re.search(r"(?m)^- ", entries):
        raise ReleaseError(f"{CHANGELOG} has no entries under [Unreleased]")
    return f"{before}{_UNRELEASED}\n## [{version}] - {today}\n{rest}"


def build(output: Path) -> None:
    """Build sdist and wheel of HEAD twice, require that both are equal, and write them with SHA256SUMS.

    Raises:
        ReleaseError: something is missing, or the two builds differ.
    """
    with tempfile.TemporaryDirectory() as directory:
        first, second = (_build_once(Path(directory, name)) for name in ("first", "second"))
        sums = {path.name: _sha256(path) for path in sorted(first.iterdir())}
        if sums != {path.name: _sha256(path) for path in sorted(second.iterdir())}:
            raise ReleaseError("two builds of the same source differ")
        for wheel in first.glob("*.whl"):
            if lacking := missing(zipfile.ZipFile(wheel).namelist()):
                raise ReleaseError(f"the wheel lacks {', '.join(lacking)}")
        output.mkdir(parents=True, exist_ok=True)
        for name in sums:
            shutil.copy(first / name, output)
    lines = "".join(f"{digest}  {name}\n" for name, digest in sums.items())
    (output / "SHA256SUMS").write_text(lines)
    print(lines, end="")


def missing(names: Iterable[str]) -> list[str]:
    """Return the patterns of what a wheel must have beside its modules, for which it has no file."""
    files = list(names)
    return [pattern for pattern in _WHEEL_HAS if not any(re.fullmatch(pattern, name) for name in files)]


def _build_once(work: Path) -> Path:
    """Build the sdist from a clean copy of HEAD, and the wheel from the sdist; return their directory."""
    source, dist = work / "source", work / "dist"
    _copy_source(source)
    date = {"SOURCE_DATE_EPOCH": _source_date()}
    environment = {**os.environ, **date, "PIP_NO_INDEX": "1", "SHELLRUNNER_BUILD_DOCS": "1"}
    _hatchling(source, dist, "sdist", environment)
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(work, filter="data")
    _hatchling(work / sdist.name.removesuffix(".tar.gz"), dist, "wheel", environment)
    return dist


def _hatchling(source: Path, output: Path, target: str, environment: Mapping[str, str]) -> None:
    argv = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(output)]
    done = subprocess.run(argv, cwd=source, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ReleaseError(f"hatchling cannot build the {target}: {done.stderr.strip()}")


def _copy_source(target: Path) -> None:
    """Copy HEAD, or the directory if it has no repository, with the page's files, which are in no commit."""
    if not (ROOT / VENDOR / ".lock").is_file():
        raise ReleaseError(f"{VENDOR} is missing: run pip install -e . once")
    if (ROOT / ".git").exists():
        target.mkdir(parents=True)
        archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, capture_output=True, check=True).stdout
        subprocess.run(["tar", "-x", "-C", target], input=archive, check=True)
        shutil.copytree(ROOT / VENDOR, target / VENDOR)
    else:
        shutil.copytree(ROOT, target, ignore=shutil.ignore_patterns(*_IGNORED))


def _source_date() -> str:
    return os.environ.get("SOURCE_DATE_EPOCH") or _git("log", "-1", "--format=%ct")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ReleaseError(f"git {words[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
