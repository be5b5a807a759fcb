"""Ctrl-Z in a job without a shell that could resume it: it would be stopped for ever.

At a terminal of its own such a command has no shell above it either, and the kernel ignores the key (setpgid(2): an
orphaned process group). Must not know keys.
"""

import asyncio
from typing import Final

from shellrunner.client import Client, ClientError

KEY: Final = b"\x1a"
_CHECKS: Final = 5
_CHECK_DELAY: Final = 0.3  # seconds: programs put their terminal in order before they stop


async def continue_stopped(client: Client, job_id: int) -> bool:
    """After the key was typed, continue the job if all of it has stopped; return whether it had.

    A shell in the job continues by itself, and a job that was paused by `pause` stays paused.
    """
    try:
        for _ in range(_CHECKS):
            await asyncio.sleep(_CHECK_DELAY)
            usage = await client.usage(job_id)
            if usage["stopped"] == usage["processes"] > 0:
                if (await client.status(job_id)).get("paused") is not False:
                    return False
                await client.signal(job_id, "SIGCONT", to="tree")
                return True
    except (ClientError, KeyError):  # it has ended, may not be sent signals by this token, or the server is older
        return False
    return False
