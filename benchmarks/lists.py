"""Lists: the cost of a page among a million jobs, compared with that among a thousand (S12).

    python benchmarks/lists.py [--jobs 1000000] [--directory DIR] [--pairs 3000]

Each list is requested from the store: its first page of 100 and the next one. The longer of the two counts, in
processor time, the best of seven runs. The histories are a realistic mix: 5 % failed, 1 % with other endings, four
queues, priorities, labels, commands with numbers, dates and paths. Last, the cost of the lists' indexes: the same
number of jobs is added and finished with and without them, in alternating rounds.
"""

import argparse
import asyncio
import random
import sqlite3
import statistics
import tempfile
import time
from pathlib import Path

from shellrunner.model import End, Ending, JobSpec, State, Usage, Volume
from shellrunner.model.filters import Filters
from shellrunner.store import Head, Retention
from shellrunner.store.pagination import Order, SortKey
from shellrunner.store.query import search
from shellrunner.store.sqlite.composition import open_store
from shellrunner.store.sqlite.schema import migrate

SMALL_COUNT = 1_000
VERBS = ("backup", "deploy", "python3 /opt/app/run.py", "rsync -a", "Обработать", "convert", "make -C", "curl -s")
# A page that is full among a million jobs may be nearly empty among a thousand, so the ratio alone decides nothing.
MAX_RATIO, MAX_SECONDS = 5, 0.25  # a list is too slow if it exceeds both

NOT_SEARCHED = (
    "SELECT 1 FROM jobs WHERE id > (SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'searched') LIMIT 1"
)

# The filters and the sort, by name.
LISTS = {
    "newest first": (Filters(), ""),
    "results": (Filters(with_result=True), ""),
    "oldest first": (Filters(), "created"),
    "by duration": (Filters(with_result=True), "-duration"),
    "-created,duration": (Filters(with_result=True), "-created,duration"),
    "priority,queue,created": (Filters(), "priority,queue,created"),
    "exit_code,-completed": (Filters(with_result=True), "exit_code,-completed"),
    "-ending,duration": (Filters(with_result=True), "-ending,duration"),
    "failed": (Filters(exit_codes=frozenset({1, 2})), ""),
    "failed, by duration": (Filters(exit_codes=frozenset({1, 2})), "duration"),
    "lost": (Filters(endings=frozenset({Ending.LOST})), ""),
    "not done": (Filters(states=frozenset({State.QUEUED, State.RUNNING})), ""),
    "one queue": (Filters(queues=frozenset({"mail"})), ""),
    "one queue, by start": (Filters(queues=frozenset({"mail"})), "started"),
    "common label": (Filters(labels=(("env", "prod"),)), ""),
    "rare label": (Filters(labels=(("env", "canary"),)), ""),
    "rare label, by duration": (Filters(labels=(("env", "canary"),)), "duration"),
    "created in one hour": (Filters(created_from=1_600_360_000_000, created_until=1_600_363_600_000), "-created"),
    "longer than 8 s": (Filters(min_duration=8), ""),
    "text in all": (Filters(text=".JSON"), ""),
    "text in an eighth": (Filters(text="обработать"), ""),
    "text in some": (Filters(text="/srv/data/1234.json"), ""),
    "text in some, by duration": (Filters(text="/srv/data/1234.json"), "duration"),
    "text in none, entries common": (Filters(text="json /srv --id"), ""),
    "text of two letters in none": (Filters(text="ыъ"), ""),
    "failed and in the night": (Filters(exit_codes=frozenset({77}), queues=frozenset({"night"})), "duration"),
    "nothing fits": (Filters(exit_codes=frozenset({0}), endings=frozenset({Ending.LOST})), "started"),
}


def main():
    """Measure and print the results."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--jobs", type=int, default=1_000_000)
    options.add_argument("--directory", type=Path, help="where the histories are (kept for later runs)")
    options.add_argument("--pairs", type=int, default=3_000, help="jobs that are added and finished in one round")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as own:
        directory = given.directory or Path(own)
        for jobs in (SMALL_COUNT, given.jobs):
            if not (directory / str(jobs)).exists():
                make(directory / str(jobs), jobs)
        few, many = (
            asyncio.run(measure(directory / str(SMALL_COUNT))),
            asyncio.run(measure(directory / str(given.jobs))),
        )
    print_table(few, many, given)
    rounds = [asyncio.run(cost_per_job(given.pairs)) for _ in range(5)]
    print("\nprocessor time of the server per job that is added and finished:")
    for number, name in enumerate(("without indexes of lists", "with them", "with them and the search index")):
        ratio = statistics.median(times[number] / times[0] for times in rounds)
        print(f"{name:32}{statistics.median(times[number] for times in rounds) * 1e6:6.0f} µs   ratio {ratio:.2f}")


def make(path, jobs):
    """Write a history of this many jobs."""
    for name in ("", "slots", "runs"):
        (path / name).mkdir(parents=True, exist_ok=True, mode=0o700)
    db = sqlite3.connect(path / "history.db", isolation_level=None)
    db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; PRAGMA cache_size=-200000")
    migrate(db)
    rng = random.Random(1)
    db.execute("BEGIN")
    db.executemany(
        """INSERT INTO jobs (id, state, queue, priority, created, started, completed, ending, exit_code, duration,
            stdout_bytes, stderr_bytes, stdout_dropped, stderr_dropped, cpu_user, cpu_system, max_rss_bytes,
            command, spec) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
        (row(number, jobs, rng) for number in range(1, jobs + 1)),
    )
    db.execute(
        "INSERT INTO labels SELECT 'env', iif(id % 10, 'prod', iif(id % 1000, 'test', 'canary')), id FROM jobs"
    )
    db.execute("UPDATE jobs SET detail = 'nobody saw it end' WHERE ending = 'lost'")
    db.execute("COMMIT")
    while True:
        db.execute("BEGIN")
        more = search.add_next_jobs(db)
        db.execute("COMMIT")
        if not more:
            break
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()


def row(number, jobs, rng):
    """Return a job's row; the last 200 are not done."""
    verb, day = (
        rng.choice(VERBS),
        f"20{rng.randrange(20, 27)}-{rng.randrange(1, 13):02}-{rng.randrange(1, 29):02}",
    )
    command = f"{verb} --id {rng.randrange(10**6)} --date {day} /srv/data/{rng.randrange(5000)}.json"
    queue = "default" if rng.random() < 0.7 else rng.choice(("mail", "build", "night"))
    priority = 0 if rng.random() < 0.9 else rng.randrange(-10, 11)
    created = 1_600_000_000_000 + number * 1000 + rng.randrange(900)
    spec = JobSpec(command=command, queue=queue, priority=priority, cwd="/srv/app", timeout=30.0)
    asked = (command, spec.model_dump_json(exclude_defaults=True))
    if number > jobs - 200:
        return (number, "queued", queue, priority, created, *[None] * 12, *asked)
    ending, code = (
        "exited",
        rng.choice((1, 1, 1, 2, 127, 255, *range(3, 30))) if rng.random() < 0.05 else 0,
    )
    if rng.random() < 0.01:
        ending, code = rng.choice(("timed_out", "cancelled", "lost")), None
    took = rng.expovariate(1)
    end = (created + 5, created + 5 + int(took * 1000), ending, code, took, 0, 0, 0, 0, 0.1, 0.1, 1)
    return (number, "done", queue, priority, created, *end, *asked)


async def measure(path):
    """Return, by the name of each list, its best time and the number of jobs in its page."""
    async with open_store(path, Retention()) as store:
        return {name: await best_time(store, *asked) for name, asked in LISTS.items()}


async def best_time(store, filters, sort):
    """Return the best time of the first two pages (the longer of the two), and the jobs in the shorter page."""
    orders = tuple(Order(SortKey(key.removeprefix("-")), key.startswith("-")) for key in sort.split(",") if key)
    times = []
    for _ in range(7):
        began = time.process_time()
        page = await store.page(filters, orders, limit=100)
        between = time.process_time()
        found = len(page.jobs)
        if page.next is not None:
            found = min(found, len((await store.page(filters, orders, limit=100, after=page.next)).jobs))
        times.append(max(between - began, time.process_time() - between))
    return min(times), found


def print_table(few, many, given):
    """Print the table, and mark the lists that exceed the limits."""
    print(
        f"{'a page of 100':32}{SMALL_COUNT:>12,}{given.jobs:>16,}"
        f"   ratio (at most {MAX_RATIO}, or {MAX_SECONDS * 1e3:g} ms)"
    )
    for name, (short, _) in few.items():
        long, found = many[name]
        ratio = long / short
        mark = " TOO SLOW" if ratio > MAX_RATIO and long > MAX_SECONDS else ""
        print(f"{name:32}{short * 1e3:9.2f} ms{long * 1e3:10.2f} ms{found:4}{ratio:8.1f}{mark}")


async def cost_per_job(jobs):
    """Return the seconds of processor time per job: without and with the lists' indexes, and with the search, too."""
    return [await measure_jobs(jobs, *what) for what in ((False, False), (True, False), (True, True))]


async def measure_jobs(jobs, indexes, searched):
    """Return the seconds of processor time per job, with sixteen jobs at a time."""
    with tempfile.TemporaryDirectory() as path:
        async with open_store(Path(path), Retention()) as store:
            await store._engine.write(lambda db: drop(db, indexes, searched))  # noqa: SLF001
            left = iter(range(jobs))
            began = time.process_time()
            await asyncio.gather(*(keeper(store, number, left) for number in range(16)))
            await wait_until_searched(store)
            return (time.process_time() - began) / jobs


async def wait_until_searched(store):
    """Wait until every job is in the search index."""
    while True:
        if await store._engine.read(lambda db: db.execute(NOT_SEARCHED).fetchone()) is None:  # noqa: SLF001
            return
        await asyncio.sleep(0.1)


async def keeper(store, number, left):
    """Add, claim and finish one job after another, as one keeper."""
    for job in left:
        await store.add(JobSpec(command=f"backup --id {job} /srv/data.json"))
        claim = await store.claim(number, f"{number}-{job}")
        end = End(
            Ending.EXITED, claim.claimed + 3, exit_code=0, started=claim.claimed, duration=0.003,
            usage=Usage(0.001, 0.001, None),
        )  # fmt: skip
        await store.finish(claim.job_id, claim.token, end, Volume(), Head())


def drop(db, indexes, searched):
    """Drop the indexes that only lists need (retention needs `jobs_completed`), or switch the search index off."""
    if not indexes:
        for key in ("created", "started", "duration", "exit_code", "ending", "queue", "priority"):
            db.execute(f"DROP INDEX jobs_{key}")
    if not searched:
        db.execute("UPDATE meta SET value = '1000000000' WHERE key = 'searched'")


if __name__ == "__main__":
    main()
