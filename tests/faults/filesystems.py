"""Small file systems of a test's own, which can be filled: tmpfs, or an image with ext4 or btrfs on a loop device."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

Need = Callable[[bool, str], None]

_SIZE: Final = {"tmpfs": 24, "ext4": 40, "btrfs": 128}  # MiB; btrfs wants more than a hundred
_MKFS: Final = {"ext4": ["mkfs.ext4", "-q", "-m", "0"], "btrfs": ["mkfs.btrfs", "-q", "-m", "single"]}


@contextlib.contextmanager
def mounted(kind: str, path: Path, need: Need, options: str = "", size: int | None = None) -> Iterator[Path]:
    """Mount an empty file system of `size` MiB in `path`, which needs root, and yield its directory."""
    size = size or _SIZE[kind]
    target, image = path / kind, path / f"{kind}.img"
    target.mkdir()
    if kind == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}m{options}", "none", str(target)]
    else:
        need(shutil.which(_MKFS[kind][0]) is not None, f"needs {_MKFS[kind][0]}")
        with image.open("wb") as file:
            file.truncate(size << 20)
        subprocess.run([*_MKFS[kind], str(image)], check=True, stdout=subprocess.DEVNULL)
        command = ["mount", "-o", f"loop{options}", str(image), str(target)]
    tried = subprocess.run(command, capture_output=True, text=True, check=False)
    need(tried.returncode == 0, f"needs to mount {kind}: {tried.stderr}")
    try:
        yield target
    finally:
        subprocess.run(["umount", "--lazy", str(target)], check=True)


@contextlib.contextmanager
def filled(directory: Path) -> Iterator[None]:
    """Leave no space in a file system."""
    path = directory / "filler"
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 16, 1 << 12, 1 << 20, 1 << 12, 512):
            with contextlib.suppress(OSError):
                while True:
                    os.write(file.fileno(), b"x" * size)
            with contextlib.suppress(OSError):
                os.fsync(file.fileno())
    try:
        yield
    finally:
        _remove(path)


@contextlib.contextmanager
def without_inodes(directory: Path) -> Iterator[None]:
    """Leave no inode in a file system."""
    folder = directory / "inodes"
    folder.mkdir()
    with contextlib.suppress(OSError):
        for number in range(1_000_000):
            (folder / str(number)).touch()
    try:
        yield
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def frozen(directory: Path) -> Iterator[None]:
    """Have every write to a file system wait, as for a snapshot of its volume."""
    subprocess.run(["fsfreeze", "--freeze", str(directory)], check=True)
    try:
        yield
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", str(directory)], check=True)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # btrfs may lack the space to remove a file, not to cut it
        os.truncate(path, 0)
    path.unlink()
