"""How a job has ended, reported to the user who followed it.

Must not know how it was followed.
"""

from typing import TYPE_CHECKING, Any, Final

from shellrunner.cli import exit_codes
from shellrunner.cli.ui import formatting
from shellrunner.cli.ui.console import Console
from shellrunner.client import Client, ClientError

if TYPE_CHECKING:
    from shellrunner.wire.documents import Result

_AMBIGUOUS_CODES: Final = (exit_codes.OTHER_ENDING, exit_codes.NOT_STARTED)  # the reason is reported even if quiet


async def report(client: Client, console: Console, job_id: int, end: Any, *, has_leftovers: bool) -> int:
    """Report what the exit code does not show, and return that; `end` is the data of the event `done`."""
    code = exit_codes.exit_code_of_job(end)
    result = await _result(client, job_id) if end["ending"] != "exited" or has_leftovers else None
    if end["ending"] != "exited":
        message = formatting.describe_ending(job_id, end, result and result["detail"])
        console.report(message, required=code in _AMBIGUOUS_CODES)
    if result and (leftovers := formatting.describe_leftovers(result)):
        console.report(f"job {job_id}: {leftovers}")
    return code


async def _result(client: Client, job_id: int) -> "Result | None":
    try:
        return await client.result(job_id)
    except ClientError:  # the result was deleted at once
        return None
