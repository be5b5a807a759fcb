"""Names, ids and limits that several packages check or document, each stated once.

Used by the model itself, the configuration, the wire, the web and the CLI. Standard library only, so that the CLI can
import it without pydantic.
"""

import re
from typing import Final

NAME_PATTERN: Final = "[A-Za-z0-9._-]{1,63}"  # of queues, tokens, jobs and labels' keys
NAME_RULE: Final = "1 to 63 letters, digits, dots, dashes or underscores"
MAX_NAME_LENGTH: Final = 63
MAX_LABELS: Final = 32  # of one job
MAX_LABEL_LENGTH: Final = 255  # characters of a label's value
MAX_JOB_ID: Final = 10**18 - 1  # 18 digits, which fit a signed 64-bit integer
MAX_EXIT_CODE: Final = 255  # wait(2): the low 8 bits
MAX_ARGUMENT_BYTES: Final = 131_071  # of one argument or variable: MAX_ARG_STRLEN less its NUL (execve(2))
MAX_ARGUMENTS: Final = 16_384
MAX_VARIABLES: Final = 4_096
MAX_DEPENDENCIES: Final = 100  # jobs that one job may wait for
MAX_BODY_BYTES: Final = 1 << 20  # of a request, and so of one job as JSON
MAX_BATCH_SIZE: Final = 1000  # jobs that are submitted together
MAX_BATCH_BYTES: Final = 8 << 20  # of a request with many jobs
MAX_QUEUE_LIMIT: Final = 1_000_000_000  # of a queue that is changed at run time
MAX_PRIORITY: Final = 1000  # and, below zero, the lowest
# Members of a job's `limits` that the kernel enforces (setrlimit(2)); the keeper enforces `output_bytes` itself.
PROCESS_LIMITS: Final = ("memory_bytes", "cpu_seconds", "processes", "open_files")
RESERVED_VARIABLES: Final = ("SHELLRUNNER_JOB", "SHELLRUNNER_JOB_ID")  # set by the service for each job

# Under /api/queues/ these are something else: clients resolve the dots (RFC 3986, 5.2.4).
NO_QUEUES: Final = (".", "..", "pause", "resume")

_NAME: Final = re.compile(NAME_PATTERN, re.ASCII)


def is_name(text: str) -> bool:
    """Return whether the text is a valid name."""
    return _NAME.fullmatch(text) is not None


def is_queue_name(text: str) -> bool:
    """Return whether the text can name a queue in a path."""
    return is_name(text) and text not in NO_QUEUES
