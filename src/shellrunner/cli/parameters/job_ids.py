"""Jobs as arguments: ids, ranges of ids, the last job, and filters; a shell can complete ids.

Must not know what is done with the jobs.
"""

import re
from collections.abc import Callable, Iterator
from functools import partial, wraps
from typing import Any, Final

import click
from click.shell_completion import CompletionItem
from click.types import StringParamType

from shellrunner.cli.job_query import Filters, filter_option
from shellrunner.cli.job_selection import LAST, JobSelection, RangeMember
from shellrunner.cli.parameters.service_values import complete, latest_jobs
from shellrunner.model.names import MAX_JOB_ID

_LAST_WORD: Final = "last"
_MAX_RANGE: Final = 10_000  # jobs that one word names
_PART: Final = re.compile(r"([0-9]{1,18})(?:-([0-9]{1,18}))?", re.ASCII)

Verb = Callable[..., Any]


class _JobIdsType(StringParamType):
    """One word with ids: 12, 3-7, 3,5,9-12 or last."""

    name = "id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the ids."""
        if not isinstance(value, str):
            return value
        try:
            ids = [job for part in value.split(",") for job in _parse_part(part)]
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if len(ids) > _MAX_RANGE:
            self.fail(f"{value!r} names more than {_MAX_RANGE} jobs: use --filter", param, ctx)
        return ids

    def shell_complete(self, ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the latest jobs whose ids begin with what is behind the last comma or dash."""
        begun = re.split("[,-]", incomplete)[-1]
        before = incomplete.removesuffix(begun)
        found = complete(ctx, partial(latest_jobs, prefix=begun))
        return [CompletionItem(f"{before}{item.value}", help=item.help) for item in found]


def _parse_part(text: str) -> Iterator[int]:
    if text == _LAST_WORD:
        yield LAST
        return
    match = _PART.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a valid id: expected 12, 3-7, 3,5,9 or last")
    first, last = int(match[1]), int(match[2] or match[1])
    if first > last > 0:
        raise ValueError(f"the range {text!r} is reversed: write {last}-{first}")
    if not 1 <= first <= last <= MAX_JOB_ID:
        raise ValueError(f"{text!r} is not in the range of ids, 1 to {MAX_JOB_ID}")
    if match[2] is None:
        yield first
    else:  # one more than allowed, and no more, since a range may name 10^18 jobs
        yield from map(RangeMember, range(first, min(last, first + _MAX_RANGE) + 1))


JOB_IDS: Final = _JobIdsType()
_HELP: Final = "\n\n    ID is a number (12), a range (3-7), a list of both (3,5,9-12), or `last`."


def _add_argument(verb: Verb, *, required: bool) -> Verb:
    """Give a verb the argument `ids`, and its help their syntax."""
    verb.__doc__ = (verb.__doc__ or "").rstrip() + _HELP
    metavar = "ID..." if required else "[ID...]"
    return click.argument("ids", metavar=metavar, type=JOB_IDS, nargs=-1, required=required)(verb)


def selected_jobs(*, states: str | None = None, bulk: str = "", is_own: bool = False) -> Callable[[Verb], Verb]:
    """Give a verb the argument `jobs`, a `JobSelection`: ids and ranges, or the last job in one of the `states`.

    With `is_own`, for verbs that do something to a job, the last job is that which the client submitted. With `bulk`,
    what the verb does to jobs, it has `--filter` and `--all` too.
    """

    def decorate(verb: Verb) -> Verb:
        @wraps(verb)
        def call(ids: tuple[list[int], ...], filters: Filters = (), *, is_all: bool = False, **options: Any) -> Any:
            jobs = JobSelection(_flat(ids), filters, is_all=is_all, states=states, is_own=is_own)
            jobs.check()
            return verb(jobs=jobs, **options)

        if bulk:
            which = _alternatives((states or "").split(","))
            help_text = f"{bulk} all jobs{f' that are {which}' if which else ''}."
            add_all = click.option("--all", "is_all", is_flag=True, help=help_text)
            return _add_argument(filter_option(add_all(call)), required=False)
        return _add_argument(call, required=False)

    return decorate


def named_jobs(verb: Verb) -> Verb:
    """Give a verb the argument `jobs`, a `JobSelection` of ids and ranges of which there is at least one.

    The last job is that which the client submitted: these verbs do something to it.
    """

    @wraps(verb)
    def call(ids: tuple[list[int], ...], **options: Any) -> Any:
        return verb(jobs=JobSelection(_flat(ids), is_own=True), **options)

    return _add_argument(call, required=True)


def _alternatives(words: list[str]) -> str:
    """Return words as an alternative: waiting, queued or running."""
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _flat(ids: tuple[list[int], ...]) -> list[int]:
    return [job for group in ids for job in group]
