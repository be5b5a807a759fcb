"""The command line: `python -m benchmarks [FIGURE...]`."""

import argparse
import contextlib
import signal
import sys
import tempfile
import traceback
from pathlib import Path

from benchmarks import machine, table
from benchmarks.cluster import database
from benchmarks.figure import Figure, Outcome, Run
from benchmarks.figures import CLUSTER_FIGURES, FIGURES
from benchmarks.peers.installation import install
from benchmarks.rounds import measure
from benchmarks.versions import CURRENT, checked_out


def main() -> None:
    """Measure the figures and print the table."""
    options = _parser().parse_args()
    if options.install_peers:
        install(options.install_peers)
        return
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM)
    )  # what was started is ended, as at Ctrl-C
    chosen = _choose(options)
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=options.directory)))
        versions = [CURRENT]
        if options.against:
            versions.append(stack.enter_context(checked_out(options.against, directory)))
        run = Run(directory, tuple(versions), options.quick, options.peers)
        stack.callback(database.end_server, directory)
        facts = machine.facts(directory)
        if any(figure in CLUSTER_FIGURES for figure in chosen):
            facts |= database.facts(directory)
        outcomes: list[Outcome] = []
        rounds = options.rounds or (1 if options.quick else 5)
        with contextlib.suppress(KeyboardInterrupt):  # what is measured is printed
            outcomes.extend(_measure(figure, run, rounds) for figure in chosen)
        facts["load"] += f" before, {machine.load()} after"
    names = [version.name for version in versions]
    lines = [line for outcome in outcomes for line in table.lines(outcome, names)]
    if options.json:
        print(table.as_json(facts, lines))
    else:
        print(", ".join(f"{name}: {fact}" for name, fact in facts.items()), end="\n\n")
        print(table.markdown(lines, names) if options.markdown else table.text(lines))
    failed = {outcome.figure.name: outcome.failed for outcome in outcomes if outcome.failed}
    if failed:
        sys.exit("failed: " + "; ".join(f"{name}: {reason}" for name, reason in failed.items()))


def _choose(options: argparse.Namespace) -> list[Figure]:
    """Return the figures that are named, else those of a single host or of clusters; a quick run tries them all."""
    figures = [*FIGURES, *CLUSTER_FIGURES]
    if options.names:
        return [figure for figure in figures if figure.name in options.names]
    if options.cluster:
        return [*CLUSTER_FIGURES]
    return figures if options.quick else [*FIGURES]


def _measure(figure: Figure, run: Run, rounds: int) -> Outcome:
    """Measure a figure; one that fails costs no other its values."""
    try:
        return measure(figure, run, rounds, _report)
    except Exception as error:  # noqa: BLE001  of a service, a peer or the load, whatever it is
        traceback.print_exc()
        return Outcome(figure, failed=f"{type(error).__name__}: {error}")


def _report(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=sys.modules["benchmarks"].__doc__)
    names = [figure.name for figure in (*FIGURES, *CLUSTER_FIGURES)]
    parser.add_argument(
        "names",
        nargs="*",
        choices=[[], *names],
        metavar="FIGURE",
        help="what to measure (default: a single host): " + ", ".join(names),
    )
    parser.add_argument(
        "--cluster", action="store_true", help="measure clusters on PostgreSQL, each beside a single host"
    )
    parser.add_argument("--rounds", type=int, help="interleaved rounds of each figure (default: 5)")
    parser.add_argument(
        "--quick", action="store_true", help="one round of few operations: shows that it works, measures nothing"
    )
    parser.add_argument("--against", metavar="COMMIT", help="measure that commit too, in the same rounds")
    parser.add_argument(
        "--directory", type=Path, help="where the state directories are, on a disk that counts (default: TMPDIR)"
    )
    parser.add_argument(
        "--peers", type=Path, metavar="DIR", help="run empty jobs by the peers too that are installed in DIR"
    )
    parser.add_argument(
        "--install-peers", type=Path, metavar="DIR", help="install the peers into DIR by apt-get and pip, and end"
    )
    parser.add_argument("--markdown", action="store_true", help="print what has a goal, as the documentation has it")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


if __name__ == "__main__":
    main()
