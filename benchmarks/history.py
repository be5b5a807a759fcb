"""Write a history of very many jobs, as the sources that are imported would have stored them.

    python -m benchmarks.history STATE_DIR JOBS

A realistic mix: 5 % failed, 1 % with other endings, four queues, priorities, labels, commands with numbers, dates and
paths. All are done, since a service would run what is queued. Written by SQL into the schema of the service, since
jobs that are submitted one by one would take many minutes.
"""

import random
import sqlite3
import sys
from pathlib import Path

from shellrunner.model import JobSpec
from shellrunner.store.query import search
from shellrunner.store.sqlite.schema import migrate

FIRST_CREATED = 1_600_000_000_000  # ms; one job a second
_VERBS = ("backup", "deploy", "python3 /opt/app/run.py", "rsync -a", "Обработать", "convert", "make -C", "curl -s")
COLUMNS = (
    "id", "state", "queue", "priority", "created", "started", "completed", "ending", "exit_code", "duration",
    "stdout_bytes", "stderr_bytes", "stdout_dropped", "stderr_dropped", "cpu_user", "cpu_system", "max_rss_bytes",
    "command", "spec",
)  # fmt: skip


def write(path: Path, jobs: int) -> None:
    """Write a history of this many jobs into a new state directory."""
    for name in ("", "slots", "runs"):
        (path / name).mkdir(parents=True, exist_ok=True, mode=0o700)
    db = sqlite3.connect(path / "history.db", isolation_level=None)
    db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; PRAGMA cache_size=-200000")
    migrate(db)
    rng = random.Random(1)
    db.execute("BEGIN")
    values = ", ".join("?" * len(COLUMNS))
    db.executemany(
        f"INSERT INTO jobs ({', '.join(COLUMNS)}) VALUES ({values})",
        (row(number, rng) for number in range(1, jobs + 1)),
    )
    db.execute(
        "INSERT INTO labels SELECT 'env', iif(id % 10, 'prod', iif(id % 1000, 'test', 'canary')), id FROM jobs"
    )
    db.execute("UPDATE jobs SET detail = 'nobody saw it end' WHERE ending = 'lost'")
    db.execute("COMMIT")
    is_searched = False
    while not is_searched:
        db.execute("BEGIN")
        is_searched = not search.add_next_jobs(db)
        db.execute("COMMIT")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()


def row(number: int, rng: random.Random) -> tuple[object, ...]:
    """Return the values of `COLUMNS` of the job with this number."""
    day = f"20{rng.randrange(20, 27)}-{rng.randrange(1, 13):02}-{rng.randrange(1, 29):02}"
    command = f"{rng.choice(_VERBS)} --id {rng.randrange(10**6)} --date {day} /srv/data/{rng.randrange(5000)}.json"
    queue = "default" if rng.random() < 0.7 else rng.choice(("mail", "build", "night"))
    priority = 0 if rng.random() < 0.9 else rng.randrange(-10, 11)
    created = FIRST_CREATED + number * 1000 + rng.randrange(900)
    spec = JobSpec(command=command, queue=queue, priority=priority, cwd="/srv/app", timeout=30.0)
    ending: str = "exited"
    code: int | None = 0
    if rng.random() < 0.05:
        code = rng.choice((1, 1, 1, 2, 127, 255, *range(3, 30)))
    if rng.random() < 0.01:
        ending, code = rng.choice(("timed_out", "cancelled", "lost")), None
    duration = rng.expovariate(1)
    end = (created + 5, created + 5 + int(duration * 1000), ending, code, duration, 0, 0, 0, 0, 0.1, 0.1, 1)
    return (number, "done", queue, priority, created, *end, command, spec.model_dump_json(exclude_defaults=True))


if __name__ == "__main__":
    write(Path(sys.argv[1]), int(sys.argv[2]))
