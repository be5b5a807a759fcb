"""Clients that are generated from the OpenAPI document of a real service: the how-to page's, and their types.

The programs are those of docs/how-to/generate-a-client.md. `.ci/run` installs what they need, which is found on PATH.
"""

import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.service import Service

PAGE = Path(__file__).parent.parent.parent / "docs/how-to/generate-a-client.md"
PROGRAMS = ("openapi-python-client", "mypy", "openapi-typescript", "tsc", "node")
_FILE = re.compile(r"^<!-- file: (\S+) -->\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SHOWN_URL = "http://localhost:8000"

pytestmark = [
    pytest.mark.skipif(not all(map(shutil.which, PROGRAMS)), reason="the generators are not installed"),
    pytest.mark.timeout(180),
]


class Workplace:
    """A directory with the page's programs, for one service."""

    def __init__(self, path: Path, url: str) -> None:
        self.path, self.url = path, url
        for name, text in _FILE.findall(PAGE.read_text()):
            self.write(name, text)

    def write(self, name: str, text: str) -> None:
        """Write a file, with the address of the service."""
        (self.path / name).write_text(text.replace(_SHOWN_URL, self.url).replace('token="…"', 'token="none"'))

    def run(self, command: str) -> str:
        """Return what a command of the page prints; its exit code is 0."""
        done = subprocess.run(
            ["/bin/sh", "-c", command.replace(_SHOWN_URL, self.url).replace("npx ", "")],
            cwd=self.path, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"$ {command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def commands(self, language: str) -> list[str]:
        """Return the commands of the page's section about a language, but for the installation."""
        section = PAGE.read_text().partition(f"\n## {language}\n")[2].partition("\n## ")[0]
        return [line for line in re.findall(r"^\$ (.*)$", section, re.MULTILINE) if " install " not in line]


@pytest.fixture
async def workplace(tmp_path: Path) -> AsyncIterator[Workplace]:
    """Yield a directory for generated clients of a service."""
    service = Service(tmp_path / "state")
    await service.start()
    (tmp_path / "programs").mkdir()
    yield Workplace(tmp_path / "programs", service.url)
    await service.clear_away()


PRINTED = ["0 Привет", r"\[ ?1 ?\]"]
WRONG_PYTHON = """
JobSpec(command=5)  # type: ignore[arg-type]
result.exit_kode  # type: ignore[union-attr]
"""
WRONG_TYPESCRIPT = """
// @ts-expect-error
await api.POST("/api/jobs", { body: { comand: "true" } });
// @ts-expect-error
console.log(result?.exit_kode);
"""


def is_printed(printed: str) -> bool:
    """Return whether the lines are those of a job that was submitted, read and listed."""
    return re.fullmatch("\n".join(PRINTED), printed.strip()) is not None


async def test_openapi_python_client_makes_a_typed_client(workplace: Workplace) -> None:
    """Nothing is left out with a warning; the program submits, reads and lists; wrong keys and types are errors."""
    for command in workplace.commands("Python"):
        workplace.run(f"{command} --fail-on-warning")
    assert is_printed(workplace.run("python3 example.py"))
    workplace.run("mypy --strict --follow-imports silent example.py")
    workplace.write("wrong.py", (workplace.path / "example.py").read_text() + WRONG_PYTHON)
    workplace.run("mypy --strict --follow-imports silent wrong.py")  # it reports what is ignored without a reason


async def test_openapi_typescript_makes_a_typed_client(workplace: Workplace) -> None:
    """The program compiles and submits, reads and lists; keys that do not exist are errors."""
    modules = Path(os.path.realpath(shutil.which("tsc") or "")).parent.parent.parent
    assert modules.name == "node_modules"
    (workplace.path / "node_modules").symlink_to(modules)
    *commands, last = workplace.commands("TypeScript")
    for command in commands:
        workplace.run(command)
    assert is_printed(workplace.run(last))
    workplace.write("wrong.mts", (workplace.path / "example.mts").read_text() + WRONG_TYPESCRIPT)
    workplace.run("tsc --strict --noEmit --target es2022 --module nodenext wrong.mts")
