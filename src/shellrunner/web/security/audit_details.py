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
# The same for all jobs of a batch, whose line also has so many digits of each command's hash.
_MAX_COMMANDS: Final = 26_000
_MAX_SPECS: Final = 7_000
_HASH_DIGITS: Final = 12
_MAX_ESCAPED: Final = 12  # characters that JSON may need for one: two UTF-16 escapes

_COMMAND: Final = frozenset({"command", "argv"})

# Filler that would keep everything else out of the head and the tail: blanks, or one character over and over.
_FILLER: Final = re.compile(r"(?<!\s)\s{17,}|(.)\1{16,}", re.DOTALL)


def of_job(spec: JobSpec, run_as: str | None, command_characters: int | None) -> Details:
    """Return what is asked for with a job; what is as by default is left out."""
    details = {"form": _form(spec)}
    details |= excerpt("command", spec.command_line, command_characters)
    details |= {name: value for name, value in _circumstances(spec, run_as) if value}
    return details


def of_edit(before: JobSpec, after: JobSpec) -> Details:
    """Return what is changed of a job: the names of the keys, and what they become where that is not the default."""
    changed = [name for name in JobSpec.model_fields if getattr(before, name) != getattr(after, name)]
    values = dict(_circumstances(after, None))
    return {"changed": changed, **{name: values[name] for name in changed if values.get(name)}}


def of_jobs(specs: Sequence[JobSpec], run_as: str | None, command_characters: int | None) -> Details:
    """Return what is asked for with many jobs, in one line: of every command at least its hash, head and tail.

    `specs` has what else they contain, in groups of jobs that have the same, by their places in the request. If not
    all groups fit, they are counted, and a hash is of all. Without `command_characters` nothing is shortened.
    """
    commands = [spec.command_line for spec in specs]
    contents = [command.encode(errors="surrogatepass") for command in commands]
    share = None if command_characters is None else min(command_characters, _MAX_COMMANDS // len(specs))
    return {
        "jobs": len(specs),
        **({"run_as": run_as} if run_as else {}),
        "commands": commands if share is None else [_fit(command, share) for command in commands],
        "commands_bytes": sum(map(len, contents)),
        "commands_sha256": sha256(b"".join(content + b"\0" for content in contents)).hexdigest(),
        "command_hashes": "".join(sha256(content).hexdigest()[:_HASH_DIGITS] for content in contents),
        **_groups(specs, None if share is None else _MAX_SPECS),
    }


def _groups(specs: Sequence[JobSpec], limit: int | None) -> Details:
    groups: dict[str, list[int]] = {}
    for index, spec in enumerate(specs):
        details = {"form": _form(spec), **{name: value for name, value in _circumstances(spec, None) if value}}
        groups.setdefault(json.dumps(details), []).append(index)
    shown: list[Details] = []
    size = 0
    for content, indexes in groups.items():
        group = {"jobs": _ranges(indexes)[0], **json.loads(content)}
        size += len(json.dumps(group))
        if limit is not None and size > limit:
            break
        shown.append(group)
    if len(shown) == len(groups):
        return {"specs": shown}
    every = "\0".join(f"{content}{indexes}" for content, indexes in groups.items()).encode()
    return {"specs": shown, "specs_count": len(groups), "specs_sha256": sha256(every).hexdigest()}


def _form(spec: JobSpec) -> str:
    return "shell" if spec.command is not None else "argv"


def _fit(text: str, share: int) -> str:
    """Return a text; of one that takes more than its share of a line, escaped as JSON may, only its head and tail."""
    if len(text) <= share and len(json.dumps(text)) <= share:
        return text
    condensed = _FILLER.sub(_describe_filler, text)
    kept = share
    while kept > 1:
        cut = f"{condensed[: kept - kept // 2]}…{condensed[-(kept // 2) :]}"
        excess = len(json.dumps(cut)) - share
        if excess <= 0:
            return cut
        kept -= max(1, excess // _MAX_ESCAPED)
    return "…"


def _circumstances(spec: JobSpec, run_as: str | None) -> Iterable[tuple[str, Any]]:
    yield "run_as", run_as
    if spec.model_fields_set <= _COMMAND:  # as most are: nothing else is to be looked at
        return
    yield "name", spec.name
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
    yield "held", spec.held
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
    shown, omitted = _ranges(job_ids)
    return {"ids": shown, **({"ids_omitted": omitted} if omitted else {})}


def _ranges(numbers: Iterable[int]) -> tuple[str, int]:
    """Return numbers as ranges, and how many are left out because there are too many ranges."""
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    shown = [str(first) if first == last else f"{first}-{last}" for first, last in ranges[:_MAX_RANGES]]
    return ",".join(shown), sum(last - first + 1 for first, last in ranges[_MAX_RANGES:])


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
