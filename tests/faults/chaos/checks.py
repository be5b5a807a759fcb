"""What must hold after a round of chaos, compared with what the commands wrote into the ledger."""

import asyncio
import re
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from tests.faults.chaos.ledger import Ledger
from tests.faults.chaos.requests import Api, Submitted

_KILLED: Final = 128 + signal.SIGKILL  # the exit code of a shell whose last command was killed
_TERMINATED: Final = frozenset({"cancelled", "timed_out", "output_limit"})


@dataclass(frozen=True)
class Attempt:
    """One attempt as the history has it: the result, every stored byte, and the claim token that the output names."""

    result: dict[str, Any]
    stdout: bytes
    stderr: bytes

    @property
    def ending(self) -> str:
        """Why it ended."""
        return str(self.result["ending"])

    @property
    def lost_its_keeper(self) -> bool:
        """Whether its keeper was killed after the command's own end, which it had witnessed."""
        return "its keeper" in (self.result["detail"] or "")

    @property
    def own_stderr(self) -> bytes:
        """What the command wrote to stderr, without what shells report of children that were ended by a signal."""
        if self.ending not in _TERMINATED:
            return self.stderr
        return b"".join(line for line in self.stderr.splitlines(keepends=True) if line.startswith(b"e "))

    @property
    def token(self) -> str | None:
        """The claim under which it ran, if its first line is there."""
        match = re.match(rb"H (\S+)\r?\n", self.stdout)
        return match[1].decode() if match else None


class Checker:
    """Compares the history with the ledger; `violations` grows by what is not true."""

    def __init__(self, api: Api, jobs: list[Submitted], ledger: Ledger, *, may_lose: bool) -> None:
        """Take all accepted jobs; `may_lose`: whether keepers were killed."""
        self._api, self._jobs, self._ledger, self._may_lose = api, jobs, ledger, may_lose
        self.violations: list[str] = []
        self.endings: Counter[str] = Counter()
        self._final: dict[int, str] = {}
        self._codes: dict[int, int | None] = {}

    async def check(self, statuses: dict[int, dict[str, Any]]) -> None:
        """Check every job, that there is no other, and `statuses`, what the stream of all statuses had them to be."""
        await self._check_list()
        limit = asyncio.Semaphore(8)

        async def check_one(job: Submitted) -> None:
            async with limit:
                await self._check_job(job)

        await asyncio.gather(*(check_one(job) for job in self._jobs))
        for job in self._jobs:
            self._check_order(job)
        self._check_single_queue()
        self._check_statuses(statuses)

    def _check_statuses(self, statuses: dict[int, dict[str, Any]]) -> None:
        """Check that a client that follows the statuses of all jobs knows every ending."""
        endings = {job_id: status["ending"] for job_id, status in statuses.items()}
        for job in self._jobs:
            final = self._final.get(job.job_id)
            if final and endings.get(job.job_id) != final:
                self._fail(job, f"it is {final}, but the stream of all statuses had {statuses.get(job.job_id)} last")

    def _fail(self, job: Submitted, problem: str) -> None:
        lines = [
            f"{each.letter} {each.token} {each.value}" for each in self._ledger.of_job(job.plan.nonce, "SEXKZDA")
        ]
        self.violations.append(f"job {job.job_id} ({job.plan.kind}): {problem}; ledger: {lines}")

    async def _check_list(self) -> None:
        """Check that every accepted job is in the history once, unless it was deleted, and no other job is."""
        listed: list[tuple[int, str]] = []
        path: str | None = "/api/jobs?limit=1000&fields=job_id,labels,state"
        while path:
            _, page, _ = await self._api.request("GET", path)
            listed += [(row["job_id"], row["labels"]["nonce"]) for row in page["jobs"]]
            self.violations += [
                f"job {row['job_id']} is {row['state']}" for row in page["jobs"] if row["state"] != "done"
            ]
            path = page["next"]
        accepted = {(job.job_id, job.plan.nonce) for job in self._jobs}
        kept = {(job.job_id, job.plan.nonce) for job in self._jobs if not job.plan.may_vanish}
        deleted = {(job.job_id, job.plan.nonce) for job in self._jobs if job.deleted}
        found = set(listed)
        checks = {
            "twice in the history": [row for row, count in Counter(listed).items() if count > 1],
            "one id for two jobs": [key for key, count in Counter(row[0] for row in found).items() if count > 1],
            "accepted, but not in the history": kept - found,
            "in the history, but not accepted": found - accepted,
            "deleted, but in the history": deleted & found,
        }
        self.violations += [f"{what}: {rows}" for what, rows in checks.items() if rows]

    async def _check_job(self, job: Submitted) -> None:
        starts = self._ledger.of_job(job.plan.nonce, "S")
        for token, count in Counter(entry.token for entry in starts).items():
            if count > 1:
                self._fail(job, f"claim {token} was started {count} times")
        if any(entry.token.partition(":")[0] != str(job.job_id) for entry in starts):
            self._fail(job, "it was started under another id")
        attempts = await self._attempts(job)
        if not attempts:
            if not job.plan.may_vanish:
                self._fail(job, "it has no result")
            return
        for attempt in attempts:
            self.endings[attempt.ending] += 1
            self._check_ending(job, attempt)
            self._check_output(job, attempt)
            self._check_leftovers(job, attempt)
        self._final[job.job_id], self._codes[job.job_id] = attempts[-1].ending, attempts[-1].result["exit_code"]
        self._check_starts(job, attempts, {entry.token for entry in starts})
        self._check_attempts(job, attempts)
        await self._check_followers(job, attempts)
        for seen in job.seen:  # what was reported once is never taken back
            if any(seen[key] != attempts[-1].result[key] for key in ("ending", "exit_code", "signal", "attempt")):
                self._fail(job, f"it was reported as {seen}, and is {attempts[-1].result}")

    async def _attempts(self, job: Submitted) -> list[Attempt]:
        status, last, _ = await self._api.request("GET", f"/api/results/{job.job_id}")
        if status != 200:
            return []
        paths = last["attempts"] or [f"/api/results/{job.job_id}"]
        found = []
        for path in paths:
            _, result, _ = await self._api.request("GET", path)
            streams = [(await self._api.request("GET", f"{path}/{stream}"))[1] for stream in ("stdout", "stderr")]
            found.append(Attempt(result, *streams))
        return found

    def _check_ending(self, job: Submitted, attempt: Attempt) -> None:
        """Check that the ending is what the command reported, or one that the test caused."""
        plan, ending, token = job.plan, attempt.ending, attempt.token
        exits = self._ledger.of_attempt(plan.nonce, token, "E") if token else []
        killed = bool(self._ledger.of_job(plan.nonce, "K"))
        code, name = attempt.result["exit_code"], attempt.result["signal"]
        allowed = set(plan.endings)
        allowed |= {"lost"} if self._may_lose else set()
        allowed |= {"cancelled"} if job.cancelled else set()
        allowed |= {"signalled", "exited"} if killed else set()  # a shell exits when what it waits for is killed
        allowed |= {"skipped"} if job.after else set()
        if attempt.lost_its_keeper and not self._may_lose:
            self._fail(job, f"its keeper was not killed, but: {attempt.result}")
        if ending not in allowed:
            self._fail(job, f"it is {ending}, which nothing caused: {attempt.result}")
        elif ending == "lost":
            if not attempt.result["detail"] or (code, name) != (None, None):
                self._fail(job, f"it is lost without evidence, or with a code: {attempt.result}")
        elif ending == "exited" and not killed:
            if [entry.value for entry in exits] != [str(code)]:
                self._fail(job, f"it exited with {code}, which it did not report under {token}")
        elif ending == "exited" and plan.code is None and not exits and code != _KILLED:
            self._fail(job, f"it exited with {code}, but nothing it ran was killed to give that: {attempt.result}")
        elif ending == "signalled" and name not in ({"SIGKILL"} if killed else set()) | {plan.signal}:
            self._fail(job, f"it was ended by {name}")
        if exits and code is not None and str(code) != exits[-1].value:
            self._fail(job, f"it has the code {code}, but reported {exits[-1].value}")
        if ending in ("skipped", "failed_to_start") and (attempt.stdout or attempt.stderr):
            self._fail(job, f"it is {ending}, but has output")

    def _check_starts(self, job: Submitted, attempts: list[Attempt], started: set[str]) -> None:
        """Check that every claim under which the command started is one attempt of the history."""
        named = {attempt.token for attempt in attempts if attempt.token}
        silent = sum(attempt.token is None for attempt in attempts)
        if named - started:
            self._fail(job, f"{named - started} have output, but never started")
        if len(started - named) > silent:
            self._fail(job, f"it started under {started - named}, of which the history has {silent} attempts")
        never = [attempt for attempt in attempts if attempt.ending in ("skipped", "failed_to_start")]
        if len(started) > len(attempts) - len(never):
            self._fail(job, f"it started {len(started)} times in {len(attempts)} attempts")

    def _check_attempts(self, job: Submitted, attempts: list[Attempt]) -> None:
        """Check that another attempt followed exactly those that ended as `retries` says."""
        retries = job.plan.spec.get("retries", {"max": 0, "on": []})
        most = 1 + retries["max"]
        if len(attempts) > most or [each.result["attempt"] for each in attempts] != [*range(1, len(attempts) + 1)]:
            self._fail(job, f"it has the attempts {[each.result['attempt'] for each in attempts]}")
        failed = [each.ending in retries["on"] and each.result["exit_code"] != 0 for each in attempts]
        if not all(failed[:-1]):
            self._fail(job, f"an attempt followed one that had ended {[each.ending for each in attempts]}")
        if failed[-1] and len(attempts) < most and not job.cancelled:
            self._fail(job, f"no attempt followed number {len(attempts)}")

    def _check_output(self, job: Submitted, attempt: Attempt) -> None:
        """Check that every byte that the command wrote is at its place."""
        plan, result = job.plan, attempt.result
        if (len(attempt.stdout), len(attempt.stderr)) != (result["stdout_bytes"], result["stderr_bytes"]):
            self._fail(job, "its raw output has another size than its result")
        token = attempt.token
        if token is None or self._ledger.of_job(plan.nonce, "K"):
            return  # a killed child of the command writes no more, which no ledger shows
        if plan.kind == "substitution" and self._ledger.of_job(plan.nonce, "Z"):
            return  # a stopped `cat` looks like one that has nothing to write
        exited = attempt.ending == "exited" and not attempt.lost_its_keeper
        dropped = {"o": result["stdout_dropped"], "e": result["stderr_dropped"]}
        for stream, stored in (("o", attempt.stdout), ("e", attempt.own_stderr)):
            text = plan.text(stream, token)
            text = text.replace(b"\n", b"\r\n") if plan.spec.get("tty") else text
            if not text.startswith(stored) and not dropped[stream]:
                self._fail(job, f"its {stream} is not what it wrote: {_difference(text, stored)}")
            elif exited and plan.sent and stream == "o" and job.given is None:
                pass  # the input was cut: how much of it was taken is not known
            elif exited and len(stored) + dropped[stream] != len(text):
                self._fail(job, f"its {stream} ends after {len(stored)} of {len(text)} bytes")
            elif (
                attempt.ending not in ("lost", "output_limit") and not dropped[stream] and plan.kind != "substitution"
            ):
                self._check_checkpoints(job, stream, token, stored)
        if plan.kind == "flood" and len(attempt.stdout) > 5_000:
            self._fail(job, f"it has {len(attempt.stdout)} bytes of output")

    def _check_leftovers(self, job: Submitted, attempt: Attempt) -> None:
        """Check that the result names what the command left behind, and nothing where it left nothing."""
        names = [each["command"] for each in attempt.result["leftovers"] or ()]
        if (
            attempt.ending == "exited"
            and not attempt.lost_its_keeper
            and not self._ledger.of_job(job.plan.nonce, "K")
        ):
            if job.plan.kind == "tree" and not any("sleep" in name for name in names):
                self._fail(job, f"it left processes behind, but names {names}: {attempt.result}")
            if job.plan.kind in ("empty", "plain", "slow", "large", "alone", "daemon") and names:
                self._fail(job, f"it left nothing behind, but names {names}")

    def _check_checkpoints(self, job: Submitted, stream: str, token: str, stored: bytes) -> None:
        """Check that what a command had written when it reported so is stored, however it ended.

        What went through another process may have been lost with that.
        """
        values = [int(entry.value) for entry in self._ledger.of_attempt(job.plan.nonce, token, "C")]
        most = max((abs(each) for each in values if (each > 0) == (stream == "o")), default=0)
        lines = stored.count(b"\n") - (stream == "o")
        if lines < most:
            self._fail(job, f"{lines} of {most} lines that it had written to {stream} are stored")

    async def _check_followers(self, job: Submitted, attempts: list[Attempt]) -> None:
        """Check that followers got exactly the stored bytes."""
        if job.events is not None and job.done_event is not None:
            stored = {
                "stdout": b"".join(each.stdout for each in attempts),
                "stderr": b"".join(each.stderr for each in attempts),
            }
            for stream, text in stored.items():
                if job.events[stream] != text:
                    self._fail(job, f"a follower got other {stream}: {_difference(text, job.events[stream])}")
            if any(job.done_event[key] != attempts[-1].result[key] for key in ("ending", "exit_code", "signal")):
                self._fail(job, f"a follower saw the end {job.done_event}")
        if job.plan.follow == "raw":
            _, output, _ = await self._api.request("GET", f"/api/statuses/{job.job_id}/output")
            if job.followed != output or not job.saw_end:
                self._fail(job, f"a follower got other output: {_difference(output, job.followed)}")

    def _check_order(self, job: Submitted) -> None:
        """Check that `after` and `start_at` were kept."""
        starts = self._ledger.of_job(job.plan.nonce, "S")
        ends = {other.job_id: other for other in self._jobs if other.job_id in job.after}
        ok = all(self._final.get(each) == "exited" and self._codes.get(each) == 0 for each in job.after)
        if starts:
            for other in ends.values():
                exits = [entry for entry in self._ledger.of_job(other.plan.nonce, "E") if entry.value == "0"]
                if not exits or exits[-1].at > starts[0].at:
                    self._fail(job, f"it started before {other.job_id}, which it needs, had exited with 0")
        final = self._final.get(job.job_id)
        if job.after and final and (final == "skipped") == ok and not job.cancelled:
            self._fail(job, f"it is {final}; those that it needs are all right: {ok}")
        for entry in self._ledger.of_job(job.plan.nonce, "A"):
            if job.not_before and int(entry.value) < job.not_before - 1:
                self._fail(job, f"it started {job.not_before - int(entry.value)} ms too early")

    def _check_single_queue(self) -> None:
        """Check that of a queue with one place at most one command ran at a time."""
        single = {job.plan.nonce: job for job in self._jobs if job.plan.spec.get("queue") == "single"}
        for job, first, last in self._runs(single):
            between = self._ledger.entries[first + 1 : last]
            others = [each.nonce for each in between if each.letter == "S" and each.nonce in single]
            if others:
                self._fail(job, f"{others} started while it ran")

    def _runs(self, jobs: dict[str, Submitted]) -> Iterator[tuple[Submitted, int, int]]:
        for nonce, job in jobs.items():
            starts, ends = self._ledger.of_job(nonce, "S"), self._ledger.of_job(nonce, "E")
            if starts and ends:
                yield job, starts[0].at, ends[-1].at


def _difference(expected: bytes, got: bytes) -> str:
    at = next(
        (n for n, (a, b) in enumerate(zip(expected, got, strict=False)) if a != b), min(len(expected), len(got))
    )
    return (
        f"byte {at} of {len(expected)}: expected {expected[at : at + 60]!r}, got {got[at : at + 60]!r} of {len(got)}"
    )
