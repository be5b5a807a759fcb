"""The store's tests run against the back end that the environment names."""

import pytest

from tests.support.histories import BACK_END


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what only SQLite can pass, when another back end is under test."""
    if BACK_END != "sqlite":
        for item in items:
            if item.get_closest_marker("sqlite"):
                item.add_marker(pytest.mark.skip(reason="reads SQLite's file or executes its statements"))
