"""Judge how a job ended by what its keeper's slot says.

Reads and judges only; the job runner decides when a slot may be judged (never while its keeper's lock is held). Must
not know asyncio, SQL or sockets.

    whole end record, its output intact                       -> that end
    whole end record, output damaged                          -> lost
    exit recorded, no end: it had left something behind       -> that exit, with the output if intact, else lost
    start record only                                         -> lost, with the output if intact
    no record, slot sound, claimed in this boot               -> never started: back to the queue
    no record otherwise (another boot, slot damaged or gone)  -> lost

A slot that is a copy, or newer than the history, is not judged at all (`keeper_pool`): its claim is lost.
"""

import os
import zlib
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from shellrunner.clock import Millis, format_rfc3339, now_ms
from shellrunner.keeper.identity import boot_id
from shellrunner.keeper.slot import (
    DATA_CAPACITY,
    ENTRY_SIZE,
    INDEX_CAPACITY,
    Record,
    SlotReader,
    data_path,
    index_path,
    slot_name,
)
from shellrunner.model import Claim, End, Ending, Leftover, Leftovers, Usage, Volume
from shellrunner.store import Head


@dataclass(frozen=True, slots=True)
class Ended:
    """The job ended, or is `lost`: what is to be recorded.

    `tree_was_swept` is false if its keeper did not see that nothing was left of it.
    """

    end: End
    volume: Volume
    head: Head
    tree_was_swept: bool = True


@dataclass(frozen=True, slots=True)
class NeverStarted:
    """Nothing was started under this claim: the job goes back to the queue."""


Verdict = Ended | NeverStarted


def is_lost(verdict: Verdict) -> bool:
    """Return whether nobody witnessed the end."""
    return isinstance(verdict, Ended) and verdict.end.ending is Ending.LOST


def may_run_on(verdict: Verdict) -> bool:
    """Return whether processes of the job may still run, since its keeper did not end all of them."""
    return isinstance(verdict, Ended) and (is_lost(verdict) or not verdict.tree_was_swept)


def failed_to_start(detail: str) -> Ended:
    """Return the end of a job that no keeper was asked to start."""
    return Ended(End(Ending.FAILED_TO_START, now_ms(), detail=detail), Volume(), Head())


def new_claim_token() -> str:
    """Return a new claim token, for one claim.

    It begins with the boot id: a claim of another boot is judged differently.
    """
    return f"{boot_id()[:8]}-{os.urandom(8).hex()}"


def witnessed_end(slot: SlotReader, record: Record | None) -> Ended:
    """Return the end that the keeper recorded.

    Raises:
        ValueError: it is missing, or not as this program writes it.
    """
    if record is None or record.end is None:
        raise ValueError("the slot has no end")
    end, volume = record.end, _volume(record.end)
    try:
        usage = Usage(end["cpu_user"], end["cpu_system"], end["max_rss_bytes"]) if "cpu_user" in end else None
        known = End(
            ending=Ending(end["ending"]),
            completed=_completed(end),
            exit_code=end.get("exit_code"),
            signal=end.get("signal"),
            detail=end.get("detail"),
            started=end.get("started"),
            duration=end.get("duration"),
            usage=usage,
            leftovers=_leftovers(end),
        )
    except KeyError as error:
        raise ValueError(f"the end in the slot lacks {error}") from None
    return Ended(known, volume, _head(slot, record, volume, end["entries"]))


def reported_end(slot: SlotReader, claim: Claim, end: dict[str, Any]) -> Ended:
    """Return an end that the keeper could not write into its slot, and sent instead.

    Output that is not intact there counts as dropped.

    Raises:
        ValueError: it is not as this program writes it.
    """
    record = slot.find(claim.job_id, claim.token)
    record = record or Record(0, claim.job_id, claim.token, start={}, progress={}, end=None)
    ended = witnessed_end(slot, record._replace(end=end))
    if (end["data_crc"], end["index_crc"]) == (zlib.crc32(ended.head.data), zlib.crc32(ended.head.index)):
        return ended
    out, err = ended.volume.stdout_bytes, ended.volume.stderr_bytes
    lost = Volume(0, 0, ended.volume.stdout_dropped + out, ended.volume.stderr_dropped + err)
    return Ended(ended.end, lost, Head())


def _leftovers(end: dict[str, Any]) -> Leftovers | None:
    if not end.get("leftovers_count"):
        return None
    processes = (Leftover(process["pid"], process["command"]) for process in end["leftovers"])
    return Leftovers(tuple(processes), end["leftovers_count"])


def _completed(end: dict[str, Any]) -> Millis:
    """Return when it ended: not before it was started, if the clock was set back meanwhile."""
    wall, started = end["wall"], end.get("started")
    if started is None or wall >= started:
        return int(wall)
    return int(started + round((end.get("duration") or 0.0) * 1000))


def judge(state: int, claim: Claim, evidence: str) -> Verdict:
    """Judge a claim whose keeper is gone (the module has the table).

    Args:
        state: the state directory's descriptor.
        claim: as the history has it.
        evidence: what is known about the keeper's end, for `detail`.

    Raises:
        OSError: the slot could not be read; try again.
    """
    same_boot = claim.token[:8] == boot_id()[:8]
    if not same_boot:
        evidence = "the host was restarted while it ran"
    try:
        slot = _open_slot(state, claim.keeper)
    except FileNotFoundError:
        return lost(f"{evidence}; its slot {claim.keeper} is missing")
    with closing(slot):
        return _judge(state, slot, claim, evidence, same_boot)


def _open_slot(state: int, keeper: int) -> SlotReader:
    slots = os.open("slots", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=state)
    try:
        return SlotReader(slots, slot_name(keeper))
    finally:
        os.close(slots)


class OutputSoFar(NamedTuple):
    """What a command had written at some moment, with the number of its index entries, and when it was started."""

    volume: Volume
    head: Head
    entries: int
    started: Millis | None


def output_so_far(state: int, keeper: int, job_id: int, token: str) -> OutputSoFar:
    """Return what the command of a claim has written, as of some moment during this call.

    Nothing if the keeper's slot has no record of the claim any more, or its output is not intact. The spill files
    are longer than counted here if the command has gone on.
    """
    nothing = OutputSoFar(Volume(), Head(), 0, None)
    try:
        slot = _open_slot(state, keeper)
    except OSError:
        return nothing
    with closing(slot):
        record = slot.find(job_id, token)
        if record is None:
            return nothing
        volume, head = _intact_output(state, slot, record, record.progress)
        found = OutputSoFar(volume, head, record.progress.get("entries", 0), record.start.get("wall"))
        return found if slot.still_holds(record) else nothing


def _judge(state: int, slot: SlotReader, claim: Claim, evidence: str, same_boot: bool) -> Verdict:
    record = slot.find(claim.job_id, claim.token)
    if record is None:
        if same_boot and slot.is_sound():
            return NeverStarted()
        return lost(f"{evidence}; its slot {claim.keeper} has no record of it")
    if record.end is None:
        return _judge_without_end(state, slot, record, evidence)
    try:
        ended = witnessed_end(slot, record)
    except ValueError as error:
        return lost(f"{evidence}; {error}", record)
    if (ended.volume, ended.head) == _intact_output(state, slot, record, record.end):
        return ended
    return lost(f"{evidence}; its end was recorded, but its output is incomplete", record)


def _judge_without_end(state: int, slot: SlotReader, record: Record, evidence: str) -> Ended:
    """Judge a command whose keeper was gone before its tree was; its own exit may have been seen."""
    if record.exit is None:
        at = format_rfc3339(record.start["wall"])
        unseen = lost(f"{evidence}; it was started at {at}, its end was not seen", record)
        return Ended(unseen.end, *_intact_output(state, slot, record, record.progress))
    detail = f"{evidence}; the command itself had ended, and what it had left behind was waited for"
    end = {**record.exit, **record.progress, "detail": detail}
    try:
        ended = witnessed_end(slot, record._replace(end=end))
    except ValueError as error:
        return lost(f"{evidence}; {error}", record)
    if (ended.volume, ended.head) != _intact_output(state, slot, record, end):
        return lost(f"{detail}, but its output is incomplete", record)
    return replace(ended, tree_was_swept=False)


def lost(detail: str, record: Record | None = None) -> Ended:
    """Return the end of a lost job; when it was started is known if the slot has a record of it."""
    started = record.start.get("wall") if record else None
    end = End(Ending.LOST, completed=max(now_ms(), started or 0), detail=detail, started=started)
    return Ended(end, Volume(), Head())


def _volume(counts: dict[str, Any]) -> Volume:
    return Volume(
        counts.get("stdout", 0),
        counts.get("stderr", 0),
        counts.get("stdout_dropped", 0),
        counts.get("stderr_dropped", 0),
    )


def _head(slot: SlotReader, record: Record, volume: Volume, entries: int) -> Head:
    if volume.stored == 0:
        return Head()
    return Head(slot.data(record, 0, min(volume.stored, DATA_CAPACITY)), slot.index(record, entries))


def _intact_output(state: int, slot: SlotReader, record: Record, counts: dict[str, Any]) -> tuple[Volume, Head]:
    """Return the output that `counts` describes if all of it is intact, else nothing.

    The slot is never synced: after a power failure its parts may be of different ages.
    """
    volume = _volume(counts)
    entries = counts.get("entries", 0)
    head = _head(slot, record, volume, entries)
    sums = (counts.get("data_crc", 0), counts.get("index_crc", 0))
    intact = (
        sums == (zlib.crc32(head.data), zlib.crc32(head.index))
        and _has_size(state, data_path, record, volume.stored - DATA_CAPACITY)
        and _has_size(state, index_path, record, (entries - INDEX_CAPACITY) * ENTRY_SIZE)
    )
    return (volume, head) if intact else (Volume(), Head())


def _has_size(state: int, path: Callable[[int, int, str | None], str], record: Record, size: int) -> bool:
    """Return whether the attempt's file has at least this size; a keeper of an earlier version used no token."""
    if size <= 0:
        return True
    for token in (record.token, None):
        with suppress(OSError):
            return os.stat(path(record.job, record.attempt, token), dir_fd=state).st_size >= size
    return False
