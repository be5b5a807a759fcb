"""`shellrunner batch`: submit many jobs from a file, in as few requests as possible."""

import json
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, Final, NoReturn

import click

from shellrunner import ascii_text
from shellrunner.cli import api_calls, exit_codes, job_request
from shellrunner.cli.foreground import local_environment
from shellrunner.cli.foreground.local_environment import LocalEnvironment
from shellrunner.cli.listing.job_printer import JobPrinter
from shellrunner.cli.parameters.job_options import JobCommand, new_job_options
from shellrunner.cli.parameters.output_options import output_option
from shellrunner.cli.ui.console import Console
from shellrunner.cli.ui.json_object import parse_object
from shellrunner.cli.ui.output_format import OutputFormat
from shellrunner.client import Client, ClientError
from shellrunner.model.names import MAX_BATCH_BYTES, MAX_BATCH_SIZE

_MAX_BYTES: Final = MAX_BATCH_BYTES * 3 // 4  # of the jobs of one request, as JSON

Job = tuple[int, Mapping[str, Any]]  # the number of its line, and its keys


@click.command(cls=JobCommand)
@click.argument("file", type=click.File("rb"))
@new_job_options
@output_option(json_help="Print each job as JSON instead of its id.")
@api_calls.server_option
def batch(
    *, file: IO[bytes], clean: bool, key: str | None, output: OutputFormat | None, stdin: str | None,
    server: str | None, **options: Any,
) -> NoReturn:  # fmt: skip
    """Submit the jobs in FILE, or with - in standard input, and print their ids in the same order.

    Each line is a command line for the shell, or a JSON object with the keys of a job. Empty lines and those that
    begin with # are left out. Options are for every job; what a line names itself wins. Up to 1,000 jobs are one
    request, of which all are accepted or none; nothing is submitted if a line cannot be read.
    """
    common = job_request.spec_of(options)
    if stdin is not None:
        if stdin == "-":
            raise click.UsageError("--stdin of `batch` must be a file")
        try:
            common["stdin"] = Path(stdin).read_bytes().decode()
        except UnicodeDecodeError:
            raise click.UsageError(f"--stdin {stdin}: `batch` takes text in UTF-8 only") from None
    try:
        jobs = list(parse_jobs(_decode(file.read()), common))
    except ValueError as error:
        raise click.UsageError(f"{file.name}: {error}") from None
    console = Console()
    action = partial(_submit, jobs, key, output, console, clean=clean, cwd=common.get("cwd"))
    api_calls.run_with_client(
        server, action, console, retry_for=api_calls.RETRY_FOR_LONG, error_code=exit_codes.SERVICE_ERROR
    )


def _decode(content: bytes) -> Iterator[str]:
    """Yield the lines; they end in a line feed, and what else Unicode has as a line end is part of a command."""
    for number, line in enumerate(content.removeprefix(BOM_UTF8).split(b"\n"), 1):
        try:
            yield line.decode()
        except UnicodeDecodeError:
            raise ValueError(f"line {number} is not valid UTF-8") from None


def parse_jobs(lines: Iterable[str], common: Mapping[str, Any]) -> Iterator[Job]:
    """Yield the jobs of a file, each with the number of its line.

    Raises:
        ValueError: a line that begins with a brace is not a JSON object.
    """
    for number, line in enumerate(lines, 1):
        text = line.strip(" \t\r\n")
        if not text or text.startswith("#"):
            continue
        yield number, {**common, **(_parse_object(number, text) if text.startswith("{") else {"command": text})}


def _parse_object(number: int, text: str) -> dict[str, Any]:
    try:
        return parse_object(text)
    except ValueError as error:
        raise ValueError(f"line {number} is not valid JSON: {error}") from None


async def _submit(
    jobs: Sequence[Job],
    key: str | None,
    output: OutputFormat | None,
    console: Console,
    client: Client,
    *,
    clean: bool,
    cwd: str | None,
) -> int:
    here = await local_environment.find(client, console, clean=clean, cwd=cwd)
    chunks = list(chunked([(number, _complete(job, here)) for number, job in jobs]))
    printer = JobPrinter(output, console, client) if output else None
    try:
        for index, chunk in enumerate(chunks):
            chunk_key = f"{key}-{index}" if key and len(chunks) > 1 else key
            with (
                local_environment.errors_mention_clean(here),
                _errors_name_lines(chunk, is_first=chunk is chunks[0]),
            ):
                submitted = await client.submit_many([job for _, job in chunk], key=chunk_key)  # type: ignore[misc]
            if printer:
                for job in submitted:
                    await printer.add(job["job_id"], job)
            else:
                await console.print_line("\n".join(str(job["job_id"]) for job in submitted))
    finally:
        if printer:  # also of an error in a later part: what was accepted runs
            await printer.finish()
    if not jobs:
        console.report("no jobs in the file")
    return 0


def _complete(job: Mapping[str, Any], here: LocalEnvironment | None) -> Mapping[str, Any]:
    """Return a job with what is sent along, unless it is confined by a profile."""
    return job if here is None or job.get("profile") else here.add_to(job)


def chunked(jobs: Sequence[Job]) -> Iterator[list[Job]]:
    """Yield the jobs in parts that fit into one request each."""
    chunk: list[Job] = []
    size = 0
    for job in jobs:
        length = len(json.dumps(job[1], ensure_ascii=False).encode(errors="surrogatepass")) + 2
        if chunk and (len(chunk) == MAX_BATCH_SIZE or size + length > _MAX_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(job)
        size += length
    if chunk:
        yield chunk


@contextmanager
def _errors_name_lines(chunk: Sequence[Job], *, is_first: bool) -> Iterator[None]:
    """Have errors name the line and the flag instead of a pointer, and what was submitted before."""
    try:
        yield
    except ClientError as error:
        if not is_first:
            error.add_note(f"the jobs before line {chunk[0][0]} were submitted")
        if error.problem and (errors := error.problem.get("errors")):
            error.detail = "; ".join(_describe(each["pointer"], each["detail"], chunk) for each in errors)
        raise


def _describe(pointer: str, detail: str, chunk: Sequence[Job]) -> str:
    parts = pointer.split("/", 3)  # #/jobs/3/timeout
    if len(parts) < 3 or parts[1] != "jobs" or not ascii_text.is_decimal(parts[2]):
        return f"{pointer}: {detail}"
    where = f" {job_request.flag_of(parts[3])}:" if len(parts) > 3 else ""
    return f"line {chunk[int(parts[2])][0]}:{where} {detail}"
