"""Every test can fail: it asserts something, and no assertion is swallowed."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(300)  # it reads all files, which takes long on a machine with much else to do

ROOT = Path(__file__).parent
NO_ERROR = "# no error is raised"  # stands where that is all that a test asserts

Function = ast.FunctionDef | ast.AsyncFunctionDef
Trees = dict[Path, ast.Module]


def functions(tree: ast.AST) -> Iterator[Function]:
    """Yield each function, also those in classes and in functions."""
    yield from (node for node in ast.walk(tree) if isinstance(node, Function))


def called(node: ast.AST) -> set[str]:
    """Return the names of the functions and methods that are called in it."""
    functions = [each.func for each in ast.walk(node) if isinstance(each, ast.Call)]
    return {each.attr if isinstance(each, ast.Attribute) else each.id for each in functions
            if isinstance(each, ast.Attribute | ast.Name)}  # fmt: skip


def has_assert(node: ast.AST) -> bool:
    """Whether `assert` stands in it."""
    return any(isinstance(each, ast.Assert) for each in ast.walk(node))


@pytest.fixture(scope="module")
def trees() -> Trees:
    """Return the syntax tree of each module."""
    return {path: ast.parse(path.read_text()) for path in sorted(ROOT.rglob("*.py"))}


def asserting_helpers(trees: Trees) -> set[str]:
    """Return the names of functions that assert, or call one that does."""
    helpers = {each for tree in trees.values() for each in functions(tree) if not each.name.startswith("test_")}
    names = {"raises", "warns", "fail", "check_call", "check_returncode"}
    names |= {each.name for each in helpers if has_assert(each)}
    calls = [(each.name, called(each)) for each in helpers]
    while found := {name for name, functions in calls if name not in names and functions & names}:
        names |= found
    return names


def test_every_test_asserts_something(trees: Trees) -> None:
    """A test has an `assert`, expects an exception, runs a program that must succeed, or calls what does so."""
    helpers = asserting_helpers(trees)
    lines = {path: path.read_text().splitlines() for path in trees}
    tests = [
        each
        for path, tree in trees.items()
        for each in functions(tree)
        if each.name.startswith("test_")
        and not any(NO_ERROR in line for line in lines[path][each.lineno - 1 : each.end_lineno])
    ]
    assert len(tests) > 1000
    without = {each.name for each in tests if not has_assert(each) and not called(each) & helpers}
    without -= {each.name for each in tests if "check=True" in ast.unparse(each)}
    assert without == set()


def test_no_assertion_is_swallowed(trees: Trees) -> None:
    """No `assert` stands under contextlib.suppress or in a `try` that catches AssertionError or everything."""
    swallowed = []
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.With | ast.AsyncWith):
                catches = any("suppress" in ast.unparse(item.context_expr) for item in node.items)
            elif isinstance(node, ast.Try):
                kinds = {ast.unparse(each.type) if each.type else "" for each in node.handlers}
                is_raised_again = any(
                    isinstance(each, ast.Raise) for part in node.handlers for each in ast.walk(part)
                )
                catches = bool(kinds & {"", "AssertionError", "Exception", "BaseException"}) and not is_raised_again
            else:
                continue
            if catches and any(has_assert(each) for each in node.body):
                swallowed.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert swallowed == []
