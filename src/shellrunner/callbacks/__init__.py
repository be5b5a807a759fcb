"""Results that are sent to whoever asked for that: each until it is delivered, or for a day.

A room of the service beside `web` and `supervisor`; `Caller` is its face. Must not know either of them, nor SQL.
"""

from shellrunner.callbacks.caller import Caller, Schedule

__all__ = ["Caller", "Schedule"]
