"""Results that are sent to whoever asked for that: each until it is delivered, or for a day.

A package of the service beside `web` and `supervisor`; `CallbackSender` is its public face. Must not know either of
them, nor SQL.
"""

from shellrunner.callbacks.caller import CallbackSender, Schedule

__all__ = ["CallbackSender", "Schedule"]
