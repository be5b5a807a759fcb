"""What is missing on this machine, and what only the whole run tries."""

import os
from collections.abc import Callable

import pytest


@pytest.fixture
def need() -> Callable[[bool, str], None]:
    """Return a function that skips the test if a condition does not hold; in CI that fails it."""

    def check(condition: bool, what: str) -> None:
        if not condition:
            (pytest.fail if os.environ.get("CI") else pytest.skip)(what)

    return check


@pytest.fixture
def only_whole(whole: bool) -> None:
    """Skip the test unless everything is tried."""
    if not whole:
        pytest.skip("only with --faults whole")


@pytest.fixture
def root(whole: bool, need: Callable[[bool, str], None]) -> None:
    """Skip the test unless root runs it: nobody else can mount, or become another user."""
    if os.geteuid() != 0 and not whole:
        pytest.skip("needs root")
    need(os.geteuid() == 0, "needs root")
