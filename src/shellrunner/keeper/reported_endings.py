"""The endings that a keeper may record: values of members of `model.Ending`, which a keeper cannot import.

Used by the loop, by the running command and by the slot. Must not know what an ending means to others.
"""

EXITED = "exited"
SIGNALLED = "signalled"
TIMED_OUT = "timed_out"
CANCELLED = "cancelled"
OUTPUT_LIMIT = "output_limit"
FAILED_TO_START = "failed_to_start"
