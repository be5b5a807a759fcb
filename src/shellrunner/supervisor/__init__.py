"""The supervisor: how many at once, claim, hand to a keeper, adopt, record the end."""

from shellrunner.supervisor.controls import Controls
from shellrunner.supervisor.keeper_pool import KeeperPool
from shellrunner.supervisor.supervisor import Supervisor

__all__ = ["Controls", "KeeperPool", "Supervisor"]
