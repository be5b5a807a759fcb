"""Reading all of an output, for comparison."""

from shellrunner.store import Output


async def read_all(output: Output, position: int = 0) -> bytes:
    """Return every byte from a position on, in arrival order."""
    data = b""
    while extents := await output.read(position + len(data), 1 << 18):
        data += b"".join(extent.data for extent in extents)
    return data
