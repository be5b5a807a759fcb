"""Questions to the user at the terminal, independent of standard input and output.

Must not know what is asked.
"""

import os
from typing import Final

from shellrunner import ascii_text
from shellrunner.cli.fd_io import wait_readable
from shellrunner.cli.ui.console import Console

_MAX_LINE: Final = 4096  # bytes: the longest line of a terminal in canonical mode (termios(3))


async def confirm(question: str, console: Console, *, refusal: str, otherwise: str) -> bool:
    """Return whether the user agrees; without a terminal report `otherwise`, and after a no `refusal`."""
    with console.prompting():
        answer = await ask(f"{question}? [y/N] ")
    if answer is None:
        console.report(f"cannot ask for confirmation without a terminal: {otherwise}", required=True)
        return False
    if not answer or not "yes".startswith(answer):
        console.report(refusal)
        return False
    return True


async def ask(question: str) -> str | None:
    """Return the answer in lower case, None if there is no terminal to ask at."""
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if os.tcgetpgrp(terminal) != os.getpgrp():  # in the background, where reading stops the process (SIGTTIN)
            return None
        os.write(terminal, question.encode())
        await wait_readable(terminal)
        answer = os.read(terminal, _MAX_LINE).decode(errors="replace")
        return ascii_text.lower(answer.strip(" \t\r\n"))
    except OSError:  # the terminal was hung up
        return None
    finally:
        os.close(terminal)
