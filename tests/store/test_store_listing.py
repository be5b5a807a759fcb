"""Lists compared with a model that sorts everything: any filters, order and page size, while jobs come and go."""

import sqlite3
import unicodedata
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shellrunner.model import Done, Ending, Job, JobSpec, State
from shellrunner.model.filters import Filters
from shellrunner.store.pagination import Order, Position, Sort, SortKey, Value
from shellrunner.store.query import listing, search
from shellrunner.store.query.walk import ScanLimits
from shellrunner.store.sqlite import schema
from tests.support import histories as real

COLUMNS = (
    "state",
    "queue",
    "priority",
    "created",
    "started",
    "completed",
    "ending",
    "exit_code",
    "duration",
    "stdout_bytes",
    "command",
    "name",
)


@dataclass(frozen=True)
class Row:
    state: str
    queue: str
    priority: int
    created: int
    started: int | None
    completed: int | None
    ending: str | None
    exit_code: int | None
    duration: float | None
    stdout_bytes: int | None
    command: str
    name: str | None
    labels: tuple[tuple[str, str], ...]


commands = st.text("aAбБййß\"' ", min_size=1, max_size=8)
accepted = {
    "queue": st.sampled_from(["default", "default", "default", "mail", "build"]),
    "priority": st.sampled_from([0, 0, 0, -1, 1, 7]),
    "created": st.integers(1, 5),
    "command": commands,
    "name": st.sampled_from([None, None, None, "aA", "b", "zz"]),
    "labels": st.sets(st.sampled_from([("a", "1"), ("a", "2"), ("b", "1")]), max_size=2).map(tuple),
}
unfinished = st.builds(
    Row,
    state=st.sampled_from(["waiting", "queued", "running"]),
    **dict.fromkeys(("started", "completed", "ending", "exit_code", "duration", "stdout_bytes"), st.none()),
    **accepted,
)
done = st.builds(
    Row,
    state=st.just("done"),
    started=st.none() | st.integers(1, 3),
    completed=st.integers(1, 5),
    ending=st.just("exited"),
    exit_code=st.sampled_from([0, 0, 0, 0, 1, 2, 255]),
    duration=st.sampled_from([0.0, 0.1, 0.3, 2.5]),
    stdout_bytes=st.sampled_from([0, 0, 5, None]),
    **accepted,
)
ended_otherwise = st.builds(
    lambda row, ending, ran: replace(row, ending=ending, exit_code=None, duration=row.duration if ran else None),
    done,
    st.sampled_from(["lost", "cancelled", "signalled"]),
    st.booleans(),
)
histories = st.lists(done | done | ended_otherwise | unfinished, max_size=30)
some_of = {
    "states": st.none() | st.frozensets(st.sampled_from(State)),
    "endings": st.none() | st.frozensets(st.sampled_from([Ending.EXITED, Ending.LOST, Ending.CANCELLED])),
    "exit_codes": st.none() | st.frozensets(st.sampled_from([0, 1, 2, 77])),
    "names": st.none() | st.frozensets(st.sampled_from(["aA", "b", "none"])),
    "queues": st.none() | st.frozensets(st.sampled_from(["default", "mail", "none"])),
}
bounds = st.none() | st.integers(1, 5)
lengths = st.none() | st.sampled_from([0.0, 0.1, 0.2, 3.0])
anything = st.builds(
    Filters,
    text=st.none() | st.text("aAбБййß\"' ", max_size=4),
    labels=st.lists(st.sampled_from([("a", "1"), ("b", "1")]), max_size=2, unique=True).map(tuple),
    created_from=bounds,
    created_until=bounds,
    completed_from=bounds,
    completed_until=bounds,
    min_duration=lengths,
    max_duration=lengths,
    with_result=st.booleans(),
    **some_of,
)
# All of them at once leave nothing; so most questions have one or two.
filters = st.one_of(
    st.just(Filters()),
    st.builds(
        lambda full, names: Filters(**{name: getattr(full, name) for name in names}),
        anything,
        st.sets(st.sampled_from(list(Filters.__dataclass_fields__)), max_size=3),
    ),
)
orders = st.builds(Order, st.sampled_from(SortKey), st.booleans())
questions = st.tuples(filters, st.lists(orders, max_size=3, unique_by=lambda order: order.key).map(tuple))
scan_limits = st.builds(
    ScanLimits,
    max_sorted=st.sampled_from([0, 1, 4, 2000]),
    batch_size=st.sampled_from([1, 2, 5, 2000]),
    max_examined=st.sampled_from([1, 5, 40, 20_000]),
)


class History:
    """A history whose rows are in the tables and in a dict."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db
        self.rows: dict[int, Row] = {}

    def add(self, row: Row) -> None:
        names = ", ".join(COLUMNS)
        cursor = self.db.execute(
            f"INSERT INTO jobs ({names}, spec) VALUES ({', '.join('?' * len(COLUMNS))}, ?)",
            [*(getattr(row, column) for column in COLUMNS), "{}"],
        )
        job_id = cursor.lastrowid
        assert job_id
        self.db.executemany("INSERT INTO labels VALUES (?, ?, ?)", [(*label, job_id) for label in row.labels])
        self.rows[job_id] = row

    def delete(self, job_id: int) -> None:
        row = self.rows.pop(job_id)
        search.remove_job(self.db, job_id, search.text_of(row.name, row.command))
        self.db.execute("DELETE FROM jobs WHERE id = ?", (job_id,))
        self.db.execute("DELETE FROM labels WHERE job = ?", (job_id,))

    def expected(self, wanted: Filters, sort: Sort) -> list[Position]:
        """Return the positions of all rows that match, sorted key by key from the last to the first."""
        ids = sorted(job_id for job_id, row in self.rows.items() if fits(row, wanted))
        if not sort or sort[-1].descending:
            ids.reverse()
        for key, descending in reversed(sort):
            known = [job_id for job_id in ids if getattr(self.rows[job_id], key) is not None]
            known.sort(key=lambda job_id, key=key: getattr(self.rows[job_id], key), reverse=descending)  # type: ignore[misc]
            ids = known + [job_id for job_id in ids if getattr(self.rows[job_id], key) is None]
        return [(*(getattr(self.rows[job_id], key) for key, _ in sort), job_id) for job_id in ids]


def same(text: str) -> str:
    """Return a text that is equal for canonical caseless matches."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).casefold())


def fits(row: Row, wanted: Filters) -> bool:
    def between(
        value: float | None, least: float | None, below: float | None = None, most: float | None = None
    ) -> bool:
        if value is None:
            return least is None and below is None and most is None
        return (
            (least is None or value >= least) and (below is None or value < below) and (most is None or value <= most)
        )

    return (
        (wanted.text is None or same(wanted.text) in same(row.command) or same(wanted.text) in same(row.name or ""))
        and (wanted.names is None or row.name in wanted.names)
        and (wanted.states is None or row.state in wanted.states)
        and (wanted.endings is None or row.ending in wanted.endings)
        and (wanted.exit_codes is None or row.exit_code in wanted.exit_codes)
        and (wanted.queues is None or row.queue in wanted.queues)
        and all(label in row.labels for label in wanted.labels)
        and between(row.created, wanted.created_from, wanted.created_until)
        and between(row.completed, wanted.completed_from, wanted.completed_until)
        and between(row.duration, wanted.min_duration, None, wanted.max_duration)
        and (not wanted.with_result or row.stdout_bytes is not None)
    )


@contextmanager
def history(rows: list[Row], taken_in: int = 0) -> Iterator[History]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        schema.migrate(db)
        made = History(db)
        for number, row in enumerate(rows):
            if number == taken_in:
                search.add_next_jobs(db)
            made.add(row)
        yield made


def whole(made: History, wanted: Filters, sort: Sort, limit: int, limits: ScanLimits) -> list[Position]:
    found: list[Position] = []
    after: Position | None = None
    for _ in range(1000):
        places, after = listing.positions(made.db, wanted, sort, limit=limit, after=after, scan_limits=limits)
        assert len(places) <= limit
        found += places
        if after is None:
            return found
    raise AssertionError("the walk does not end")


quick = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.heavy
@pytest.mark.sqlite
@quick
@given(histories, st.integers(0, 30), questions, st.integers(1, 5), scan_limits)
def test_a_walk_is_everything_in_order(
    rows: list[Row], taken_in: int, question: tuple[Filters, Sort], limit: int, limits: ScanLimits
) -> None:
    """The pages hold exactly the jobs that match, in order, whatever the filters, sort, page size and limits."""
    wanted, sort = question
    with history(rows, taken_in) as made:
        assert whole(made, wanted, sort, limit, limits) == made.expected(wanted, sort)


@pytest.mark.heavy
@pytest.mark.sqlite
@quick
@given(histories, questions, scan_limits, st.data())
def test_nothing_is_skipped_or_repeated(
    rows: list[Row], question: tuple[Filters, Sort], limits: ScanLimits, data: st.DataObject
) -> None:
    """While jobs are added and deleted between pages, those that stay are listed once, in order, and none twice."""
    wanted, sort = question
    limit = data.draw(st.integers(1, 4))
    with history(rows, data.draw(st.integers(0, 30))) as made:
        stayed = made.expected(wanted, sort)
        found: list[Position] = []
        after: Position | None = None
        for _ in range(1000):
            places, after = listing.positions(made.db, wanted, sort, limit=limit, after=after, scan_limits=limits)
            found += places
            if after is None:
                break
            for row in data.draw(st.lists(done | unfinished, max_size=1)):
                made.add(row)
            deletes: bool = data.draw(st.booleans())
            if made.rows and deletes:
                job_id = data.draw(st.sampled_from(sorted(made.rows)))
                made.delete(job_id)
                stayed = [place for place in stayed if place[-1] != job_id]
            if data.draw(st.booleans()):
                search.add_next_jobs(made.db)
        else:
            raise AssertionError("the walk does not end")
    ids = [place[-1] for place in found]
    assert len(set(ids)) == len(ids)
    known = {place[-1] for place in stayed}
    assert [place for place in found if place[-1] in known] == stayed


@pytest.mark.heavy
@pytest.mark.sqlite
@quick
@given(histories, questions, scan_limits)
def test_every_place_is_a_beginning(rows: list[Row], question: tuple[Filters, Sort], limits: ScanLimits) -> None:
    """A page that begins at any position of a list holds exactly the rest of the list."""
    wanted, sort = question
    with history(rows) as made:
        expected = made.expected(wanted, sort)
        for number, after in enumerate(expected):
            places, following = listing.positions(made.db, wanted, sort, limit=40, after=after, scan_limits=limits)
            while following is not None:
                more, following = listing.positions(
                    made.db, wanted, sort, limit=40, after=following, scan_limits=limits
                )
                places = [*places, *more]
            assert places == expected[number + 1 :]


async def test_pages_of_large_jobs_end_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page ends before its jobs exceed the limit of characters, whatever was requested, and has a next page."""
    monkeypatch.setattr(listing, "MAX_PAGE_CHARACTERS", 25_000)
    sort = (Order(SortKey.PRIORITY, True),)
    async with real.opened(tmp_path) as store:
        for number in range(5):
            await store.add(JobSpec(argv=("x" * 10_000,), priority=number))
        seen: list[int] = []
        after: Position | None = None
        while len(seen) < 5:
            page = await store.page(Filters(), sort, limit=100, after=after)
            assert len(page.jobs) <= 2
            seen += [job.id for job in page.jobs]
            after = page.next
            assert after is None or after == position_after(page.jobs[-1].job(), sort)
            assert page.positions == [position_after(listed.job(), sort) for listed in page.jobs]
        assert after is None
        assert seen == [5, 4, 3, 2, 1]


def position_after(job: Job, sort: Sort) -> Position:
    """Return the position just after this job."""
    values: dict[SortKey, Value] = {
        SortKey.CREATED: job.created, SortKey.PRIORITY: job.spec.priority, SortKey.QUEUE: job.spec.queue,
        SortKey.NAME: job.name,
    }  # fmt: skip
    if isinstance(job.phase, Done):
        end = job.phase.end
        values |= {
            SortKey.STARTED: end.started, SortKey.COMPLETED: end.completed, SortKey.DURATION: end.duration,
            SortKey.EXIT_CODE: end.exit_code, SortKey.ENDING: end.ending.value,
        }  # fmt: skip
    return (*(values.get(order.key) for order in sort), job.id)


@pytest.mark.sqlite
async def test_places_are_those_of_the_jobs(tmp_path: Path) -> None:
    """The position of a job in a list equals the one computed from the job, whatever the sort."""
    async with real.opened(tmp_path) as store:
        await real.done(store)
        await real.running(store, "u")
        await store.add(real.SPEC)
        for key in SortKey:
            sort = (Order(key, descending=True),)
            places, _ = await store._engine.read(partial(listing.positions, filters=Filters(), sort=sort, limit=9))
            assert list(places) == [position_after(await store.job(int(place[-1] or 0)), sort) for place in places]
            assert len(places) == 3
