"""Run the store's jobs under keepers: claim, start, cancel, adopt after a restart, record how they ended.

Used by the composition root; `Controls` sends signals and input to running jobs for `web`. Must not know HTTP or SQL.
"""

from shellrunner.supervisor.controls import Controls
from shellrunner.supervisor.keeper_pool import KeeperPool
from shellrunner.supervisor.supervisor import IDLE_KEEPERS, Supervisor

__all__ = ["IDLE_KEEPERS", "Controls", "KeeperPool", "Supervisor"]
