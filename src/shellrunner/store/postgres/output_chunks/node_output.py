"""The output of a shared history at one node: who sends what it runs, who follows what others run, how it is read.

Built by `composition` of its parts, which know nothing of each other. Must not know SQL.
"""

from shellrunner.store.db import UnitOfWork
from shellrunner.store.notifications import Notifications
from shellrunner.store.output import Output
from shellrunner.store.output.local import LocalStorage
from shellrunner.store.output.location import SlotOwner
from shellrunner.store.output.reader import OutputReader
from shellrunner.store.output.spill import SpillRemover
from shellrunner.store.postgres.output_chunks.chunk_removal import ChunkRemoval
from shellrunner.store.postgres.output_chunks.chunk_source import RunUnit
from shellrunner.store.postgres.output_chunks.chunk_storage import ChunkStorage, NodeLocate
from shellrunner.store.postgres.output_chunks.remote_followers import RemoteFollowers
from shellrunner.store.postgres.output_chunks.sender import OutputSender, SendNote
from shellrunner.store.postgres.output_chunks.spill_sweep import RunWrite, SpillSweep
from shellrunner.tasks import TaskGroup


class NodeOutput:
    """The parts, and the tasks that they need."""

    def __init__(
        self,
        node: str,
        url: str,
        storage: LocalStorage,
        owners: dict[int, SlotOwner],
        run_read: RunUnit,
        *,
        run_write: RunWrite,
        send_note: SendNote,
        notifications: Notifications,
    ) -> None:
        async def run_job_read(_: int, unit: UnitOfWork[object]) -> object:
            return await run_read(unit)

        self.sender = OutputSender(node, url, storage, owners, send_note)
        self.followers = RemoteFollowers(node, owners, run_read, send_note, notifications.notify)
        self.reader = OutputReader(ChunkStorage(storage, run_read), run_job_read, NodeLocate(node))  # type: ignore[arg-type]
        self._owners, self._notifications = owners, notifications
        self._removal = ChunkRemoval(self.sender)
        self.sweep = SpillSweep(node, storage.state_dir, run_read, run_write)

    async def find(self, job_id: int, attempt: int | None = None) -> Output:
        """Return the output as it is now; see `OutputReader.find`."""
        output = await self.reader.find(job_id, self._owners.get(job_id), attempt)
        if output.lags:
            self.followers.touch(job_id)
        return output

    def start(self, tasks: TaskGroup, remover: SpillRemover) -> None:
        """Run the tasks; `remover` removes spill files."""
        tasks.start("store-spill-sweep", self.sweep.run(remover))
        tasks.start("store-notifications", self._notifications.run())
        tasks.start("store-output-sender", self.sender.run())
        tasks.start("store-remote-followers", self.followers.run())
        tasks.start("store-chunk-removal", self._removal.run())

    def close(self) -> None:
        """End the connection."""
        self.sender.close()
