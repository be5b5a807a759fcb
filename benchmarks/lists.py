"""Lists: what a page costs among a million jobs, against what it costs among a thousand (S12).

    python benchmarks/lists.py [--jobs 1000000] [--directory DIR] [--pairs 3000]

Each list is asked for through the store: its first page of 100 and the next one; the longer of the two counts, the
best of seven times. The histories are a realistic mix: 5 % failed, 1 % ended otherwise, four queues, priorities,
labels, commands with numbers, dates and paths in them. Last, what the indexes of the lists cost a job: as many jobs
are added and finished with them as without, in turns.
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

FEW = 1_000
VERBS = ("backup", "deploy", "python3 /opt/app/run.py", "rsync -a", "Обработать", "convert", "make -C", "curl -s")
# What fills a page among a million may be all there is among a thousand, so that the ratio alone says little.
TIMES, WORST = 5, 0.25  # as long as among a thousand, or seconds

WAITING = "SELECT 1 FROM jobs WHERE id > (SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'searched') LIMIT 1"

# By what a person would say: the filters and the sort.
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
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--jobs", type=int, default=1_000_000)
    options.add_argument("--directory", type=Path, help="where the histories are (kept for another time)")
    options.add_argument("--pairs", type=int, default=3_000, help="jobs that are added and finished in one turn")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as own:
        directory = given.directory or Path(own)
        for jobs in (FEW, given.jobs):
            if not (directory / str(jobs)).exists():
                make(directory / str(jobs), jobs)
        few, many = asyncio.run(measure(directory / str(FEW))), asyncio.run(measure(directory / str(given.jobs)))
    tell(few, many, given)
    rounds = [asyncio.run(pairs(given.pairs)) for _ in range(5)]
    print("\nprocessor time of the server for a job that is added and finished:")
    for number, name in enumerate(("with neither", "with the lists' indexes", "and taken into the search")):
        ratio = statistics.median(times[number] / times[0] for times in rounds)
        print(f"{name:32}{statistics.median(times[number] for times in rounds) * 1e6:6.0f} µs   ratio {ratio:.2f}")


def make(path, jobs):
    """Write a history."""
    for name in ("", "slots", "runs"):
        (path / name).mkdir(parents=True, exist_ok=True, mode=0o700)
    db = sqlite3.connect(path / "history.db", isolation_level=None)
    db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; PRAGMA cache_size=-200000")
    migrate(db)
    luck = random.Random(1)
    db.execute("BEGIN")
    db.executemany(
        """INSERT INTO jobs (id, state, queue, priority, created, started, completed, ending, exit_code, duration,
            stdout_bytes, stderr_bytes, stdout_dropped, stderr_dropped, cpu_user, cpu_system, max_rss_bytes,
            command, spec) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
        (row(number, jobs, luck) for number in range(1, jobs + 1)),
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


def row(number, jobs, luck):
    """A job's row; the last few are not done."""
    verb, day = (
        luck.choice(VERBS),
        f"20{luck.randrange(20, 27)}-{luck.randrange(1, 13):02}-{luck.randrange(1, 29):02}",
    )
    command = f"{verb} --id {luck.randrange(10**6)} --date {day} /srv/data/{luck.randrange(5000)}.json"
    queue = "default" if luck.random() < 0.7 else luck.choice(("mail", "build", "night"))
    priority = 0 if luck.random() < 0.9 else luck.randrange(-10, 11)
    created = 1_600_000_000_000 + number * 1000 + luck.randrange(900)
    spec = JobSpec(command=command, queue=queue, priority=priority, cwd="/srv/app", timeout=30.0)
    asked = (command, spec.model_dump_json(exclude_defaults=True))
    if number > jobs - 200:
        return (number, "queued", queue, priority, created, *[None] * 12, *asked)
    ending, code = "exited", luck.choice((1, 1, 1, 2, 127, 255, *range(3, 30))) if luck.random() < 0.05 else 0
    if luck.random() < 0.01:
        ending, code = luck.choice(("timed_out", "cancelled", "lost")), None
    took = luck.expovariate(1)
    end = (created + 5, created + 5 + int(took * 1000), ending, code, took, 0, 0, 0, 0, 0.1, 0.1, 1)
    return (number, "done", queue, priority, created, *end, *asked)


async def measure(path):
    """Each list's name: the best of several times, and how many jobs its page had."""
    async with open_store(path, Retention()) as store:
        return {name: await best(store, *asked) for name, asked in LISTS.items()}


async def best(store, filters, sort):
    """The best time for a page at the beginning and one further on (the longer of the two), and what was in them."""
    orders = tuple(Order(SortKey(key.removeprefix("-")), key.startswith("-")) for key in sort.split(",") if key)
    times = []
    for _ in range(7):
        began = time.perf_counter()
        page = await store.page(filters, orders, limit=100)
        between = time.perf_counter()
        found = len(page.jobs)
        if page.next is not None:
            found = min(found, len((await store.page(filters, orders, limit=100, after=page.next)).jobs))
        times.append(max(between - began, time.perf_counter() - between))
    return min(times), found


def tell(few, many, given):
    """Print the table, with what is above the limit marked."""
    print(f"{'a page of 100':32}{FEW:>12,}{given.jobs:>16,}   ratio (at most {TIMES}, or {WORST * 1e3:g} ms)")
    for name, (short, _) in few.items():
        long, found = many[name]
        ratio = long / short
        mark = " TOO LONG" if ratio > TIMES and long > WORST else ""
        print(f"{name:32}{short * 1e3:9.2f} ms{long * 1e3:10.2f} ms{found:4}{ratio:8.1f}{mark}")


async def pairs(jobs):
    """Seconds of processor time for a job: without and with the lists' indexes, and with the search as well."""
    return [await pair(jobs, *what) for what in ((False, False), (True, False), (True, True))]


async def pair(jobs, indexes, searched):
    """Seconds of processor time for each of these jobs, sixteen at a time."""
    with tempfile.TemporaryDirectory() as path:
        async with open_store(Path(path), Retention()) as store:
            await store._engine.write(lambda db: drop(db, indexes, searched))  # noqa: SLF001
            left = iter(range(jobs))
            began = time.process_time()
            await asyncio.gather(*(keeper(store, number, left) for number in range(16)))
            await all_searched(store)
            return (time.process_time() - began) / jobs


async def all_searched(store):
    """Wait until the search has every job."""
    while True:
        if await store._engine.read(lambda db: db.execute(WAITING).fetchone()) is None:  # noqa: SLF001
            return
        await asyncio.sleep(0.1)


async def keeper(store, number, left):
    """Add, claim and finish one job after another."""
    for job in left:
        await store.add(JobSpec(command=f"backup --id {job} /srv/data.json"))
        claim = await store.claim(number, f"{number}-{job}")
        end = End(
            Ending.EXITED, claim.claimed + 3, exit_code=0, started=claim.claimed, duration=0.003,
            usage=Usage(0.001, 0.001, None),
        )  # fmt: skip
        await store.finish(claim.job_id, claim.token, end, Volume(), Head())


def drop(db, indexes, searched):
    """Remove what only the lists need (retention needs `jobs_completed`)."""
    if not indexes:
        for key in ("created", "started", "duration", "exit_code", "ending", "queue", "priority"):
            db.execute(f"DROP INDEX jobs_{key}")
    if not searched:
        db.execute("UPDATE meta SET value = '1000000000' WHERE key = 'searched'")


if __name__ == "__main__":
    main()
