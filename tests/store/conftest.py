"""The store's tests run against the back end that the environment names; without a name some run against both.

SHELLRUNNER_TEST_STORE=postgres has all of them run against PostgreSQL. The modules below do so always, because they
have the rules that both back ends share units for, and PostgreSQL could break.
"""

from collections.abc import Iterator

import pytest

from tests.support import histories
from tests.support.histories import BACK_ENDS, NAMED_BACK_END

_WITH_BOTH = {
    "test_queue_counts",
    "test_store_attempts",
    "test_store_bulk",
    "test_store_change_log",
    "test_store_claims",
    "test_store_notifications",
    "test_store_shares",
    "test_store_submitter",
    "test_store_waiting",
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Have each test run against the named back end, or against both."""
    is_sqlite_only = metafunc.definition.get_closest_marker("sqlite") is not None
    if NAMED_BACK_END:
        back_ends: tuple[str, ...] = (NAMED_BACK_END,)
    elif metafunc.module.__name__.rpartition(".")[2] in _WITH_BOTH and not is_sqlite_only:
        back_ends = BACK_ENDS
    else:
        return
    metafunc.parametrize("_back_end", back_ends, indirect=True)


@pytest.fixture(autouse=True)
def _back_end(request: pytest.FixtureRequest) -> Iterator[None]:
    back_end = getattr(request, "param", "sqlite")
    if back_end != "sqlite" and request.node.get_closest_marker("sqlite"):
        pytest.skip("is about SQLite's file, its statements, or files that only it keeps")
    histories.select(back_end)
    yield
    histories.select("sqlite")
    histories.drop_databases()
