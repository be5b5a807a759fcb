"""The jobs of a round of chaos: commands that report about themselves, and what is expected of each.

Every random choice comes from the seed and the job's number, so a round can be repeated. A command appends to a
ledger, with one write(2) for each line, so that the lines of all commands are in the order of their writing:

    S  it started             C  it has written so many lines of one stream
    E  it is about to exit, with this code                  D  a daemon that it left behind is alive
    X  it is about to end itself by this signal             K  the test is about to kill a process of it
                                                            Z  the test is about to stop a process of it

Its output describes itself: a first line with its claim token, then numbered lines.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

GRACE: Final = 0.4  # seconds between TERM and KILL in the service under test

_PREAMBLE: Final = r"""
note() { printf '%s %s %s %s\n' "$1" "$CHAOS" "$SHELLRUNNER_JOB" "$2" >> "$LEDGER"; }
finish() { note E $1; exit $1; }
out() { seq -f "o %.0f $CHAOS" $1 $2; note C $2; }
err() { seq -f "e %.0f $CHAOS" $1 $2 >&2; note C -$2; }
note S $$
echo "H $SHELLRUNNER_JOB"
"""


@dataclass
class Plan:
    """One job: its spec, what it writes, how it may end, and what its client does with it."""

    nonce: str
    kind: str
    spec: dict[str, Any]
    code: int | None = 0  # the exit code if nothing happens to it; None: it does not exit by itself
    failures: int = 0  # attempts that exit with 9 before one exits with `code`
    lines: dict[str, int] = field(default_factory=lambda: {"o": 0, "e": 0})
    sent: bytes = b""  # what it gets as streamed input, and writes to stdout
    endings: frozenset[str] = frozenset({"exited"})
    signal: str | None = None
    follow: str | None = None
    cancel_after: float | None = None
    pause_after: float | None = None  # and resumed after as long again
    hold_for: float | None = None
    repeat: bool = False  # the submission is sent twice at once
    wait: bool = False  # the submission asks for the result
    delete: bool = False
    needs: int = 0  # so many earlier jobs must have exited with 0
    start_in: float | None = None
    group: str = ""  # deleted in bulk

    @property
    def may_vanish(self) -> bool:
        """Whether a client deletes it."""
        return self.delete or bool(self.group)

    def shell(self, script: str) -> None:
        """Run `script` after the preamble, in the configured shell."""
        self.spec["command"] = _PREAMBLE + script

    def text(self, stream: str, token: str) -> bytes:
        """Return what the command writes to stdout ("o") or stderr ("e") under this claim token."""
        numbers = range(1, self.lines[stream] + 1)
        text = (f"H {token}\n" if stream == "o" else "") + "".join(f"{stream} {n} {self.nonce}\n" for n in numbers)
        return text.encode() + (self.sent if stream == "o" else b"")


def _plain(plan: Plan, chance: random.Random) -> None:
    plan.code = chance.choice((0, 0, 1, 7, 255))
    plan.lines = {"o": chance.randrange(1, 20), "e": chance.randrange(1, 20)}
    plan.shell(f"out 1 {plan.lines['o']}; err 1 {plan.lines['e']}; finish {plan.code}")


def _empty(plan: Plan, chance: random.Random) -> None:
    plan.code = chance.randrange(256)
    plan.shell(f"finish {plan.code}")


def _slow(plan: Plan, chance: random.Random) -> None:
    plan.code, plan.lines = chance.randrange(5), {"o": 30, "e": 10}
    pause = f"sleep {chance.uniform(0.05, 0.4):.2f}"
    plan.shell(f"out 1 10; {pause}; out 11 20; err 1 10; {pause}; out 21 30; finish {plan.code}")


def _large(plan: Plan, chance: random.Random) -> None:
    half = chance.randrange(2_000, 15_000)
    plan.lines = {"o": 2 * half, "e": half}
    plan.shell(f"out 1 {half}; err 1 {half}; out {half + 1} {2 * half}; finish 0")


def _tree(plan: Plan, chance: random.Random) -> None:
    left = [
        "sleep 600 &", "setsid sleep 600 &", "(sleep 600 & sleep 600) &", "(setsid sh -c 'sleep 600 & sleep 600' &)",
        "nohup sleep 600 >/dev/null 2>&1 &", "timeout 600 sleep 600 &", "(trap '' TERM; sleep 600) &",
    ]  # fmt: skip
    plan.code, plan.lines["o"] = 3, 5
    plan.shell("\n".join([*chance.sample(left, 3), "out 1 5; finish 3"]))


def _substitution(plan: Plan, chance: random.Random) -> None:
    plan.lines = {"o": chance.randrange(1, 3_000), "e": 50}
    script = f"exec > >(cat) 2> >(cat >&2)\nout 1 {plan.lines['o']}; err 1 50; finish 0"
    plan.spec["argv"] = ["bash", "-c", _PREAMBLE + script]


def _suicide(plan: Plan, chance: random.Random) -> None:
    plan.signal = chance.choice(("SIGKILL", "SIGSEGV", "SIGTERM", "SIGUSR1"))
    plan.code, plan.endings, plan.lines["o"] = None, frozenset({"signalled"}), 5
    plan.shell(f"out 1 5; note X {plan.signal}; kill -{plan.signal[3:]} $$; sleep 600")


def _endless(plan: Plan, chance: random.Random) -> None:
    plan.code, plan.endings, plan.spec["timeout"] = None, frozenset({"timed_out"}), chance.uniform(0.2, 0.8)
    trap = chance.choice(("trap 'finish 143' TERM;", "trap '' TERM;", ""))
    plan.lines["o"] = 3
    plan.shell(f"{trap} out 1 3; sleep 600 & wait; sleep 600")


def _flood(plan: Plan, _: random.Random) -> None:
    plan.code, plan.endings, plan.spec["limits"] = None, frozenset({"output_limit"}), {"output_bytes": 5_000}
    plan.lines["o"] = 50_000
    plan.shell("out 1 50000; sleep 600")


def _missing(plan: Plan, chance: random.Random) -> None:
    plan.code, plan.endings = None, frozenset({"failed_to_start"})
    plan.spec |= chance.choice(({"argv": ["/nonexistent"]}, {"argv": ["true"], "cwd": "/nonexistent"}))


def _input(plan: Plan, chance: random.Random) -> None:
    plan.sent = "".join(f"line {n} пример\n" for n in range(chance.randrange(1, 4_000))).encode()
    plan.spec["stdin"] = {"stream": True}
    plan.shell("cat; finish 0")


def _terminal(plan: Plan, chance: random.Random) -> None:
    plan.spec["tty"] = True
    plan.lines["o"] = chance.randrange(1, 300)
    plan.shell(f"out 1 {plan.lines['o']}; finish 0")


def _retried(plan: Plan, chance: random.Random) -> None:
    plan.failures, plan.lines["o"] = chance.randrange(4), 10
    on = ["exited", *chance.choice(([], ["signalled"], ["signalled", "lost"]))]
    plan.spec["retries"] = {"max": 2, "delay": round(chance.uniform(0, 0.3), 2), "on": on}
    count = 'grep -c "^S $CHAOS " "$LEDGER"'
    plan.shell(f'n=$({count}); out 1 10; if [ "$n" -le {plan.failures} ]; then finish 9; fi; finish 0')


def _dependent(plan: Plan, chance: random.Random) -> None:
    plan.needs, plan.lines["o"] = chance.randrange(1, 3), 2
    plan.shell("out 1 2; finish 0")


def _later(plan: Plan, chance: random.Random) -> None:
    plan.start_in = round(chance.uniform(0.1, 1.5), 2)
    plan.shell("note A $(date +%s%3N); finish 0")


def _daemon(plan: Plan, _: random.Random) -> None:
    plan.spec["leave_children"], plan.lines["o"] = True, 2
    plan.shell("out 1 2; (sleep 0.3; note D 1; sleep 0.3) >/dev/null 2>&1 & finish 0")


def _alone(plan: Plan, chance: random.Random) -> None:
    plan.spec["queue"], plan.lines["o"] = "single", 1
    plan.shell(f"out 1 1; sleep {chance.uniform(0, 0.1):.2f}; finish 0")


_KINDS: Final[dict[Callable[[Plan, random.Random], None], int]] = {
    _plain: 6, _empty: 3, _slow: 3, _large: 2, _tree: 3, _substitution: 2, _suicide: 1, _endless: 2, _flood: 1,
    _missing: 1, _input: 3, _terminal: 2, _retried: 3, _dependent: 2, _later: 1, _daemon: 1, _alone: 2,
}  # fmt: skip
KINDS: Final = frozenset(kind.__name__.strip("_") for kind in _KINDS)


def plan_job(seed: int, run: str, number: int, ledger: str) -> Plan:
    """Return the plan of one job, by the seed and its number alone; `run` marks its processes."""
    chance = random.Random(f"{seed} job {number}")
    (kind,) = chance.choices(list(_KINDS), list(_KINDS.values()))
    nonce = f"{run}-{number}"
    environment = {"CHAOS": nonce, "LEDGER": ledger}
    plan = Plan(nonce, kind.__name__.strip("_"), {"env": environment, "labels": {"nonce": nonce}})
    kind(plan, chance)
    plan.spec["priority"] = chance.randrange(-2, 3)
    plan.repeat, plan.wait = chance.random() < 0.15, chance.random() < 0.15
    if chance.random() < 0.15:
        plan.cancel_after = chance.choice((0.0, 0.02, 0.2, 0.5)) * chance.random()
    choice = chance.random()
    if choice < 0.4:
        plan.follow = "events" if choice < 0.25 else "raw"
    elif choice < 0.5:
        plan.delete = True
    elif choice < 0.6:
        plan.group = str(chance.randrange(4))
        plan.spec["labels"]["group"] = plan.group
    if chance.random() < 0.2:
        plan.pause_after = chance.uniform(0, 0.3)
    if chance.random() < 0.2:
        plan.hold_for = chance.uniform(0, 0.3)
    return plan
