"""What a line of the audit log says of a request: a command and its circumstances, and the ids of many jobs.

Used by the handlers. Never values of environment variables, text for standard input, or tokens. Must not know where
the lines are written.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final

from shellrunner.model import JobSpec, Streamed

Details = dict[str, Any]

# Characters, escaped as JSON may, of all names of variables and of all labels: journald cuts lines at 48 KiB.
_MAX_NAMES: Final = 10_000
_MAX_LABELS: Final = 6_000
_MAX_NAME: Final = 200  # characters of one name, or of a label's value
_MAX_PATH: Final = 1000
_MAX_RANGES: Final = 500  # of ids

# Filler that would keep everything else out of the head and the tail: blanks, or one character over and over.
_FILLER: Final = re.compile(r"(?<!\s)\s{17,}|(.)\1{16,}", re.DOTALL)


def of_job(spec: JobSpec, run_as: str | None, command_characters: int | None) -> Details:
    """Return what is asked for with a job; what is as by default is left out."""
    details = {"form": "shell" if spec.command is not None else "argv"}
    details |= excerpt("command", spec.command_line, command_characters)
    details |= {name: value for name, value in _circumstances(spec, run_as) if value}
    return details


def _circumstances(spec: JobSpec, run_as: str | None) -> Iterable[tuple[str, Any]]:
    yield "run_as", run_as
    yield "profile", spec.profile
    yield "cwd", spec.cwd and _cut(str(spec.cwd), _MAX_PATH)
    yield from _names("env", list(spec.env), _MAX_NAMES).items()
    yield "stdin", "stream" if isinstance(spec.stdin, Streamed) else None
    yield "stdin_bytes", len(spec.stdin.encode(errors="replace")) if isinstance(spec.stdin, str) else None
    yield "tty", spec.tty is not None
    yield "leave_children", spec.leave_children
    yield "notify", spec.notify and spec.notify.host
    yield "queue", spec.queue if spec.queue != "default" else None
    yield from _names("labels", [f"{key}:{value}" for key, value in spec.labels.items()], _MAX_LABELS).items()
    yield "priority", spec.priority
    yield "after", list(spec.after)
    yield "start_at", spec.start_at
    yield "timeout", spec.timeout
    yield "retries", spec.retries and spec.retries.max


def excerpt(name: str, text: str, limit: int | None) -> Details:
    """Return a text, its length in bytes and its SHA-256; of one beyond `limit` characters only its head and tail.

    In these, filler is replaced by its description, so that something behind (or between) thousands of blanks shows.
    """
    content = text.encode(errors="surrogatepass")
    digest = {f"{name}_bytes": len(content), f"{name}_sha256": sha256(content).hexdigest()}
    if limit is None or len(text) <= limit:
        return {name: text, **digest}
    condensed = _FILLER.sub(_describe_filler, text)
    head = condensed[: limit - limit // 2]
    tail = condensed[len(head) :][-(limit // 2) :] if limit > 1 else ""
    return {f"{name}_head": head, f"{name}_tail": tail, **digest}


def of_query(query: Mapping[str, str]) -> Details:
    """Return the parameters of a request, whose names were checked; repeated ones as a list."""
    if not query:
        return {}
    values: dict[str, list[str]] = {}
    for name, value in query.items():
        values.setdefault(name, []).append(_cut(value, _MAX_PATH))
    return {"query": {name: found if len(found) > 1 else found[0] for name, found in values.items()}}


def of_ids(job_ids: Iterable[int]) -> Details:
    """Return ids as ranges, such as `1-3,7`."""
    ranges: list[list[int]] = []
    for job_id in sorted(job_ids):
        if ranges and job_id == ranges[-1][1] + 1:
            ranges[-1][1] = job_id
        else:
            ranges.append([job_id, job_id])
    shown = [str(first) if first == last else f"{first}-{last}" for first, last in ranges[:_MAX_RANGES]]
    omitted = sum(last - first + 1 for first, last in ranges[_MAX_RANGES:])
    return {"ids": ",".join(shown), **({"ids_omitted": omitted} if omitted else {})}


def _names(key: str, names: Sequence[str], limit: int) -> Details:
    """Return the names that fit; if not all do, also their number, and the SHA-256 of all (sorted, joined by NUL)."""
    shown: list[str] = []
    for name in names:
        cut = _cut(name, _MAX_NAME)
        limit -= len(json.dumps(cut))
        if limit < 0:
            break
        shown.append(cut)
    if shown == list(names):
        return {key: shown}
    every = "\0".join(sorted(names)).encode(errors="surrogatepass")
    return {key: shown, f"{key}_count": len(names), f"{key}_sha256": sha256(every).hexdigest()}


def _describe_filler(found: re.Match[str]) -> str:
    return f"[{len(found[0])} blanks]" if found[0].isspace() else f"[{len(found[0])} times {found[0][0]}]"


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - limit // 4]}…{text[-(limit // 4) :]}"
