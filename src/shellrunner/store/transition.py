"""What a unit did to jobs: each move from one state to another, told once it is committed.

Made by the writes, applied by the store on the loop: counts, bells, claims and retention follow from moves alone.
"""

from typing import NamedTuple

from shellrunner.clock import Millis
from shellrunner.model import Ending, State


class Transition(NamedTuple):
    """A job went from one state (None: it was not there) to another (None: it is gone).

    `size` is its stored output, where it is done, or was: None if its result was deleted before. `has_followers`: a
    job or a callback depends on its end. `due`: when it may start, if it waits for that alone. `ending`: why, if it
    is done now.
    """

    job_id: int
    queue: str
    before: State | None
    after: State | None
    size: int | None = 0
    has_followers: bool = False
    due: Millis | None = None
    attempts: int = 1
    ending: Ending | None = None


Transitions = list[Transition]
