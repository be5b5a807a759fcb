"""Jobs as the verbs that submit, await or show them print them: as documents, or as the table that `ps` shows.

Must not know how the jobs were selected.
"""

from collections.abc import Mapping
from typing import Any

from shellrunner.cli.job_query import fetch_by_id
from shellrunner.cli.ui.console import Console
from shellrunner.cli.ui.job_table import render_jobs
from shellrunner.cli.ui.output_format import JSON, TABLE, OutputFormat
from shellrunner.client import Client


class JobPrinter:
    """Prints a document about each job at once, or at the end in the forms that are one text for all jobs."""

    def __init__(self, output: OutputFormat, console: Console, client: Client, *, is_list: bool = True) -> None:
        """`is_list` says whether JSON is a list; otherwise there is one job."""
        self._output, self._console, self._client, self._is_list = output, console, client, is_list
        self._ids: list[int] = []
        self._documents: list[Mapping[str, Any]] = []

    async def add(self, job_id: int, document: Any) -> None:
        """Print a document about a job, or keep it until the end."""
        if self._output.kind in {JSON, TABLE}:
            self._ids.append(job_id)
            self._documents.append(document)
        else:
            await self._output.print(self._console, [document])

    async def finish(self) -> None:
        """Print what was kept."""
        if self._output.kind == TABLE:
            await self._console.print_line(render_jobs(await fetch_by_id(self._client, self._ids)))
        elif self._output.kind == JSON and (self._is_list or self._documents):
            await self._output.print(self._console, self._documents, is_list=self._is_list)
