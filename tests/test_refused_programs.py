"""A program that the kernel refuses: the job's detail says whether it is the file or its interpreter."""

import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.service import Service

CASES: dict[str, tuple[bytes, int, str]] = {
    "misspelt": (b"#!/usr/bin/pyhton -u\nprint(1)\n", 0o755, "its interpreter /usr/bin/pyhton does not exist"),
    "spaces": (b"#! \t/no/such/sh\t-e\n", 0o755, "its interpreter /no/such/sh does not exist"),
    "crlf": (
        b"#!/bin/sh\r\necho hi\r\n", 0o755,
        "its lines end in CRLF, so its interpreter is /bin/sh\\r, which does not exist: use dos2unix",
    ),
    "crlf and options": (b"#!/no/such -x\r\n", 0o755, "its interpreter /no/such does not exist"),
    "no interpreter": (b"#!\necho hi\n", 0o755, "its #! line names no interpreter"),
    "no #!": (b"echo hi\n", 0o755, "it is neither a program nor a script that begins with #!"),
    "bom": (
        b"\xef\xbb\xbf#!/bin/sh\necho hi\n", 0o755,
        "a byte order mark (UTF-8 BOM) is before its #!: save it without one",
    ),
    "empty": (b"", 0o755, "it is empty"),
    "damaged": (b"\x7fELF" + b"x" * 500, 0o755, "it was built for another architecture, or is damaged"),
    "not executable": (b"#!/bin/sh\n", 0o644, "it is not executable (mode 0644): use chmod +x"),
    "interpreter is data": (b"#!/etc/passwd\n", 0o755, "its interpreter /etc/passwd may not be executed"),
}  # fmt: skip


@pytest.mark.heavy
@pytest.mark.parametrize("limits", [{}, {"limits": {"open_files": 100}}], ids=["posix_spawn", "fork"])
async def test_a_program_that_cannot_be_executed_says_why(
    service: Service, tmp_path: Path, limits: dict[str, Any]
) -> None:
    """Both ways of starting a command, by an absolute path, by one in the working directory, and along PATH."""
    for name, (content, mode, reason) in CASES.items():
        path = tmp_path / "script"
        path.write_bytes(content)
        path.chmod(mode)
        specs: list[dict[str, Any]] = [{"argv": [str(path)]}, {"argv": ["./script"], "cwd": str(tmp_path)}]
        specs += [{"argv": ["script"], "env": {"PATH": f"/none:{tmp_path}"}}] if mode == 0o755 else []
        for spec in specs:
            result = await service.run(**spec, **limits)
            assert (result["ending"], result["exit_code"]) == ("failed_to_start", None)
            assert result["detail"] == f"cannot start {spec['argv'][0]}: {reason}", name
        path.unlink()


@pytest.mark.heavy
async def test_what_is_no_regular_file_says_so(service: Service, tmp_path: Path) -> None:
    """A directory, a pipe without a writer, and a program that is open for writing; the keeper goes on."""
    os.mkfifo(tmp_path / "pipe", 0o755)
    busy = tmp_path / "busy"
    busy.write_bytes(Path("/bin/true").read_bytes())
    busy.chmod(0o755)
    with busy.open("ab"):
        details = [(await service.run(argv=[str(path)]))["detail"] for path in (tmp_path, tmp_path / "pipe", busy)]
    assert details == [
        f"cannot start {tmp_path}: it is a directory",
        f"cannot start {tmp_path}/pipe: it is not a regular file",
        f"cannot start {busy}: it is open for writing (Text file busy)",
    ]
    missing = await service.run(argv=[f"{tmp_path}/none"])
    assert missing["detail"] == f"cannot start {tmp_path}/none: No such file or directory"
    assert (await service.run("pwd"))["ending"] == "exited"
