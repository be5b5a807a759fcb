"""Interleaved rounds: A B, B A, A B, so that a drift of the machine's speed affects every contender alike."""

from collections.abc import Callable

from benchmarks.figure import Figure, Outcome, Run, Unavailable


def measure(figure: Figure, run: Run, rounds: int, report: Callable[[str], None]) -> Outcome:
    """Run the rounds of a figure and return what they measured."""
    outcome = Outcome(figure)
    rounds = min(rounds, figure.max_rounds or rounds)
    with figure.contenders(run) as contenders:
        ready = []
        for name, contender in contenders.items():
            if isinstance(contender, Unavailable):
                outcome.unavailable[name] = str(contender)
            else:
                ready.append((name, contender))
        for number in range(rounds):
            report(f"{figure.name}: round {number + 1} of {rounds}")
            for name, sample in ready if number % 2 == 0 else reversed(ready):
                try:
                    outcome.samples.setdefault(name, []).append(sample())
                except Unavailable as reason:
                    outcome.unavailable[name] = str(reason)
            ready = [(name, sample) for name, sample in ready if name not in outcome.unavailable]
    return outcome
