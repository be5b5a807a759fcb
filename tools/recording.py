#!/usr/bin/env python3
"""Record docs/promise.svg: a followed job counts on while the service is killed with SIGKILL and started again.

    python tools/recording.py

Everything in the picture happened: a real service and the real command line, with the times at which lines appeared.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from html import escape
from pathlib import Path
from typing import Final, NamedTuple

TARGET: Final = Path(__file__).parent.parent / "docs/promise.svg"
JOB: Final = "for n in $(seq 8); do echo step $n of 8; sleep 0.7; done; exit 3"
PAUSE: Final = 4.0  # seconds that the last picture stays
WIDTH, LINE, MARGIN = 840, 20, 16


class Shown(NamedTuple):
    """A line as it appeared: seconds since the beginning, the pane, the text, its class."""

    at: float
    pane: int
    text: str
    style: str = ""


def main() -> None:
    """Record, and write the picture."""
    with tempfile.TemporaryDirectory() as directory:
        TARGET.write_text(picture(record(Path(directory))))


def record(directory: Path) -> list[Shown]:
    """Let it happen; return what appeared, in order."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {"PATH": path, "HOME": str(directory), "SHELLRUNNER_URL": url}
    shellrunner = str(Path(sys.executable).with_name("shellrunner"))
    serve_command = [shellrunner, "serve", "--port", str(port), "--state-dir", str(directory / "state")]
    server, _ = start(serve_command, environment)
    begin = time.monotonic()
    submit = [shellrunner, "submit", "--", JOB]
    shown = [Shown(0.0, 0, "$ shellrunner serve", "typed"), Shown(0.3, 0, "listening", "log")]

    def now() -> float:
        return time.monotonic() - begin + 0.6

    shown.append(Shown(now(), 1, f"$ shellrunner submit -- '{JOB}'", "typed"))
    submitted = subprocess.run(submit, env=environment, capture_output=True, text=True, check=True)
    shown.append(Shown(now(), 1, submitted.stdout.strip()))
    shown.append(Shown(now(), 1, "$ shellrunner logs -f 1", "typed"))
    follower = subprocess.Popen([shellrunner, "logs", "-f", "1"], env=environment, stdout=subprocess.PIPE, text=True)
    assert follower.stdout is not None
    for number, line in enumerate(follower.stdout, 1):
        shown.append(Shown(now(), 1, line.rstrip("\n")))
        if number == 3:
            server.kill()
            server.wait()
            shown.append(Shown(now(), 0, "Killed (SIGKILL)", "killed"))
        if number == 3:
            time.sleep(1.6)
            shown.append(Shown(now(), 0, "$ shellrunner serve", "typed"))
            server, events = start(serve_command, environment)
            shown.append(Shown(now(), 0, ", ".join(events), "log"))
    follower.wait()
    shown.append(Shown(now(), 1, '$ shellrunner wait 1; echo "exit code $?"', "typed"))
    waited = subprocess.run([shellrunner, "wait", "-q", "1"], env=environment, check=False)
    shown.append(Shown(now(), 1, f"exit code {waited.returncode}"))
    server.send_signal(signal.SIGTERM)
    server.wait()
    assert waited.returncode == 3, waited
    assert [line.text for line in shown if line.text.startswith("step")] == [f"step {n} of 8" for n in range(1, 9)]
    return shown


def start(command: list[str], environment: dict[str, str]) -> "tuple[subprocess.Popen[bytes], list[str]]":
    """Start the service; return it, and the events that it has logged, once it listens."""
    server = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    assert server.stderr is not None
    events: list[str] = []
    while line := server.stderr.readline():
        event = json.loads(line)
        if event["level"] == "info":
            events.append(event["event"])
        if event["event"] == "listening":
            return server, events
    raise SystemExit("the service did not start")


def free_port() -> int:
    """Return a port that nothing listens on."""
    import socket  # noqa: PLC0415

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def picture(shown: list[Shown]) -> str:
    """Return the recording as an animated SVG."""
    total = max(line.at for line in shown) + PAUSE
    panes: list[list[Shown]] = [[line for line in shown if line.pane == number] for number in (0, 1)]
    styles, texts, top = [], [], MARGIN
    for number, (title, lines) in enumerate(zip(("the service", "a client"), panes, strict=True)):
        height = LINE * (len(lines) + 1) + MARGIN
        texts.append(
            f'<rect class="pane" x="{MARGIN}" y="{top}" width="{WIDTH - 2 * MARGIN}" height="{height}" rx="6"/>'
        )
        texts.append(
            f'<text class="title" x="{WIDTH - 2 * MARGIN}" y="{top + LINE}" text-anchor="end">{title}</text>'
        )
        for row, line in enumerate(lines):
            key = f"l{number}-{row}"
            percent = 100 * line.at / total
            styles.append(
                f"@keyframes {key}{{0%,{percent:.2f}%{{opacity:0}}{percent + 0.01:.2f}%,100%{{opacity:1}}}}"
            )
            styles.append(f"#{key}{{animation:{key} {total:.1f}s infinite}}")
            y = top + LINE * (row + 1) + 2
            texts.append(f'<text id="{key}" class="{line.style}" x="{2 * MARGIN}" y="{y}">{escape(line.text)}</text>')
        top += height + MARGIN
    fixed = (
        "text{font:14px ui-monospace,Menlo,Consolas,monospace;fill:#d7dce2;white-space:pre}.pane{fill:#171b21}"
        ".title{fill:#6b7684}.typed{fill:#fff;font-weight:600}.killed{fill:#ff6b6b;font-weight:600}.log{fill:#7fd1a3}"
        "@media (prefers-reduced-motion:reduce){text{animation:none!important;opacity:1!important}}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" role="img" '
        'aria-label="A followed job counts from 1 to 8 while its service is killed and started again">\n'
        f"<style>{fixed}{''.join(styles)}</style>\n" + "\n".join(texts) + "\n</svg>\n"
    )


if __name__ == "__main__":
    main()
