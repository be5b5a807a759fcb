"""What the view of a job shows beside its output: live usage, attempts, dependencies."""

import re
from typing import Any

import pytest

from tests.support.service import Service

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_the_usage_of_a_running_job_is_shown(service: Service, open_tab: Any) -> None:
    """A running job shows CPU, memory and number of processes of its tree; one that has ended no longer does."""
    job = await service.submit("sleep 1000 & sleep 1000 & wait")
    tab = await open_tab(service, f"#job={job}")
    await tab.wait_for("#job-details dd", "3 processes")
    shown = await tab.page.locator("#job-details div", has_text="Uses").inner_text()
    assert re.search(r"\d+ % CPU, [\d.]+ [KM]iB, 3 processes$", shown), shown
    await service.ask("POST", f"/api/jobs/{job}/cancel")
    await tab.wait_until_ended("cancelled")
    await tab.until("() => !document.getElementById('job-details').textContent.includes('processes')")
