"""The audit log in a file of its own, on a real file system that is full."""

import json
from pathlib import Path

import pytest

from shellrunner.service.audit_file import AuditFile
from tests.faults.filesystems import Need, filled, mounted


@pytest.mark.usefixtures("root")
async def test_a2_a_full_disk_refuses_and_recovers(tmp_path: Path, need: Need) -> None:
    """A2: while the disk is full nothing is accepted and it says why; with room again every line is whole."""
    with mounted("tmpfs", tmp_path, need, size=1) as disk:
        path = disk / "audit.log"
        file = AuditFile(path)
        with filled(disk):
            written = 0
            while await file.write("accepted", {"n": written, "command": "x" * 1000}):
                written += 1  # into the last page
            assert not await file.write("accepted", {"n": -1})
            assert file.post("response", {"n": -2})
            assert "No space left" in str(await file.failure())
        assert await file.failure() is None
        assert await file.write("accepted", {"n": -3})
        await file.close()
        numbers = [json.loads(line).get("n") for line in path.read_text().splitlines() if line.endswith("}")]
        assert [number for number in numbers if number is not None] == [*range(written), -2, -3]
