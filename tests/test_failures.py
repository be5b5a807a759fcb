"""The lists of failures in docs/explanation, and the tests that they name: each is there for the other."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(300)  # it reads all files, which takes long on a machine with much else to do

ROOT = Path(__file__).parent.parent
ROW = re.compile(r"^\| ([PSOETCNA][0-9]+) \|.*\| ([^|]*) \|$", re.MULTILINE)
LIST = {
    number: re.findall(r"`(test_\w+)`", tests)
    for number, tests in ROW.findall((ROOT / "docs/explanation/failures.md").read_text())
}
Tests = list[tuple[str, str]]


@pytest.fixture(scope="module")
def tests() -> Tests:
    """Return the name and docstring of each test, and of each module of tests."""
    return list(every_test())


def every_test() -> Iterator[tuple[str, str]]:
    """Yield what `tests` returns."""
    for path in (ROOT / "tests").rglob("test_*.py"):
        module = ast.parse(path.read_text())
        yield path.stem, ast.get_docstring(module) or ""
        for node in ast.walk(module):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                yield node.name, ast.get_docstring(node) or ""


def numbers_in(name: str) -> set[str]:
    """Return the numbers of failures that the name of a test begins with: test_p7_p8_… is P7 and P8."""
    found = re.match(r"test_((?:[psoetcna][0-9]+_)+)", name)
    return set(found[1].upper().split("_")[:-1]) if found else set()


def test_every_failure_that_a_test_cites_is_in_the_list(tests: Tests) -> None:
    """P1 and its like in the name or docstring of a test, or in the source, are rows of the list.

    T, C, N and A in the names only: C1 is also the name of a set of control characters.
    """
    cited = {number for name, text in tests for number in numbers_in(name) | set(re.findall(r"\b[PSOE]\d+\b", text))}
    source = "".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    cited |= set(re.findall(r"\b[PSOE][0-9]{1,2}\b", source))
    assert len(cited) > 30
    assert cited - LIST.keys() == set()


@pytest.mark.parametrize("number", LIST)
def test_every_failure_is_shown_by_the_tests_that_its_row_names(number: str, tests: Tests) -> None:
    """Each row names at least one test, each of them exists, and those whose name has the number are all named."""
    named = LIST[number]
    assert named
    assert set(named) - {name for name, _ in tests} == set()
    assert {name for name, _ in tests if number in numbers_in(name)} - set(named) == set()


def test_every_row_of_the_clusters_failures_names_tests_that_exist(tests: Tests) -> None:
    """What dies in a cluster: each row of the tables has at least one test."""
    table = re.findall(
        r"^\| .* \| ([^|]*) \|$", (ROOT / "docs/explanation/cluster-failures.md").read_text(), re.MULTILINE
    )
    named = [re.findall(r"`(test_\w+)`", cell) for cell in table if cell != "Tests"]
    assert len(named) > 8
    assert all(named)
    assert {name for row in named for name in row} - {name for name, _ in tests} == set()
