"""How much is tried, with which random choices, and what is missing on this machine."""

import os
import random
from collections.abc import Callable

import pytest


@pytest.fixture
def whole(pytestconfig: pytest.Config) -> bool:
    """Whether everything is tried, not only a short selection."""
    return bool(pytestconfig.getoption("--faults") == "whole")


@pytest.fixture
def seed(pytestconfig: pytest.Config) -> int:
    """Return the seed of every random choice in the test; printed, so that pytest shows it where the test fails."""
    chosen = pytestconfig.getoption("--fault-seed")
    number = random.SystemRandom().randrange(1 << 32) if chosen is None else int(chosen)
    print(f"seed {number}: repeat with --fault-seed {number}")
    return number


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
