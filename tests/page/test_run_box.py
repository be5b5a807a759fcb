"""The run box: every key of a job's specification, how values are written, and templates."""

from random import Random
from typing import Any

import pytest
from pydantic import BaseModel

from shellrunner.model import JobSpec, Limits, Retries, Terminal
from tests.support.service import Service

pytestmark = pytest.mark.asyncio(loop_scope="session")

# What has a place of its own outside the options.
OTHER_PLACES = {"command", "merge_stderr"}


def keys_of_the_specification() -> set[str]:
    """Return every key of a job's specification, those of its objects with a dot."""
    objects: dict[str, type[BaseModel]] = {"limits": Limits, "retries": Retries, "tty": Terminal}
    nested = {f"{name}.{key}" for name, model in objects.items() for key in model.model_fields}
    nested |= {"notify.url", "stdin.stream"}
    return (JobSpec.model_fields.keys() - {"limits", "retries", "notify"}) | nested


async def test_the_run_box_has_a_field_for_every_key(service: Service, open_tab: Any) -> None:
    """Each key of a job's specification has exactly one field, with a label."""
    tab = await open_tab(service)
    await tab.wait_until_live()
    await tab.page.click("#run-toggle-options")
    names = "[...document.querySelectorAll('#run-fields :is(input, textarea, select)')].map((each) => each.name)"
    fields = await tab.page.evaluate(names)
    assert len(fields) == len(set(fields))
    assert set(fields) - {"delay"} == keys_of_the_specification() - OTHER_PLACES
    unlabelled = "[...document.querySelectorAll('#run-fields [name]')].filter((each) => !each.labels[0]?.innerText)"
    assert await tab.page.evaluate(f"{unlabelled}.length") == 0


async def test_every_key_can_be_entered(service: Service, open_tab: Any) -> None:
    """What is entered in the fields is what the job has."""
    first = await service.submit(": first")
    await service.result(first)
    tab = await open_tab(service)
    await tab.wait_until_live()
    await tab.page.click("#run-toggle-options")
    texts = {
        "name": "every-key", "priority": "-3", "labels": "team=web\nnote=two words", "cwd": "/tmp",
        "env": 'A=1\n\nB=x="y\nC="two\nlines \\"quoted\\""  ', "stdin": "input\n",
        "after": str(first), "timeout": "1m 30s",
        "limits.memory_bytes": "2G",
        "limits.cpu_seconds": "10m", "limits.output_bytes": "512 KiB", "limits.processes": "5000",
        "limits.open_files": "64", "retries.max": "2", "retries.delay": "1.5", "retries.on": "exited timed_out",
        "encoding": "iso-8859-1",
    }  # fmt: skip
    for name, text in texts.items():
        await tab.page.fill(f"#run-fields [name='{name}']", text)
    await tab.page.select_option("#run-fields [name=leave_children]", "true")
    await tab.page.check("#run-split-stderr")
    await tab.page.fill("#run-command", 'cat; echo "$A$B$C"')
    await tab.page.press("#run-command", "Enter")
    await tab.wait_until_ended("exit 0")
    job = int((await tab.page.text_content("#job-name")).split()[1])
    _, _, found = await service.get(f"/api/jobs/{job}")
    limits = {
        "memory_bytes": 2**31, "cpu_seconds": 600, "output_bytes": 2**19, "processes": 5000, "open_files": 64,
    }  # fmt: skip
    expected = {
        "name": "every-key", "priority": -3, "labels": {"team": "web", "note": "two words"}, "cwd": "/tmp",
        "env": ["A", "B", "C"], "after": [first], "timeout": 90, "limits": limits, "merge_stderr": False,
        "retries": {"max": 2, "delay": 1.5, "on": ["exited", "timed_out"]}, "leave_children": True,
    }  # fmt: skip
    assert {key: found[key] for key in expected} == expected
    assert (await service.result(job))["stdout"] == 'input\n1x="ytwo\nlines "quoted"\n'


async def test_a_terminal_a_hold_and_a_delay_can_be_entered(service: Service, open_tab: Any) -> None:
    """A terminal of a size, a held job and a delay from now arrive as such; Enter in a line of options runs too."""
    tab = await open_tab(service)
    await tab.wait_until_live()
    await tab.page.click("#run-toggle-options")
    await tab.page.check("#run-fields [name=tty]")
    await tab.page.fill("#run-fields [name='tty.rows']", "30")
    assert await tab.page.is_checked("#run-fields [name='tty.echo']")
    assert await tab.page.is_checked("#run-fields [name='stdin.stream']")  # so that it can be typed into
    await tab.page.fill("#run-fields [name=stdin]", "text")
    await tab.page.fill("#run-command", ": not yet")
    await tab.page.press("#run-command", "Enter")
    await tab.wait_for("#run-fields .field:has([name=stdin]) .error", "not both")
    await tab.page.fill("#run-fields [name=stdin]", "")
    await tab.page.check("#run-fields [name=held]")
    await tab.page.fill("#run-command", ": not yet")
    await tab.page.fill("#run-fields [name=delay]", "2h")
    await tab.page.press("#run-fields [name=delay]", "Enter")
    await tab.wait_for("#job-badge .badge", "Held")
    job = int((await tab.page.text_content("#job-name")).split()[1])
    _, _, found = await service.get(f"/api/jobs/{job}")
    assert found["tty"] == {"rows": 30, "columns": 80, "echo": True}
    assert found["held"] is True
    assert found["start_at"] > found["created"]
    await tab.wait_for("#job-details dd", "in 2h 00m")
    await service.ask("POST", f"/api/jobs/{job}/cancel")


async def test_streams_are_merged_unless_they_are_wanted_apart(service: Service, open_tab: Any) -> None:
    """As typed, stderr is merged into stdout in the order of writing; Shift+Enter begins a line."""
    tab = await open_tab(service)
    await tab.wait_until_live()
    await tab.page.fill("#run-command", "echo 1; echo 2 >&2")
    await tab.page.press("#run-command", "Shift+Enter")
    await tab.page.type("#run-command", "echo 3; echo 4 >&2")
    await tab.page.press("#run-command", "Enter")
    await tab.wait_until_ended("exit 0")
    job = int((await tab.page.text_content("#job-name")).split()[1])
    assert (await service.result(job))["stdout"] == "1\n2\n3\n4\n"


async def test_invalid_input_is_explained_at_its_field(service: Service, open_tab: Any) -> None:
    """Errors of the service, and those found by the form itself, are shown at the field, which has the focus."""
    tab = await open_tab(service)
    await tab.wait_until_live()
    await tab.page.fill("#run-command", "true")
    await tab.page.click("#run-toggle-options")
    wrong = {
        "cwd": "not/absolute",
        "env": 'OPEN="no end',
        "limits.memory_bytes": "much",
        "timeout": "-1",
        "after": "99999999",
    }
    for name, text in wrong.items():
        await tab.page.fill(f"#run-fields [name='{name}']", text)
        await tab.page.press("#run-command", "Enter")
        await tab.wait_for(f"#run-fields .field:has([name='{name}'][aria-invalid]) .error")
        assert await tab.page.evaluate("document.activeElement.name") == name
        await tab.page.fill(f"#run-fields [name='{name}']", "")
    await tab.page.fill("#run-command", "'")
    await tab.page.check("#run-fields [name=argv]")
    await tab.page.press("#run-command", "Enter")
    await tab.wait_for("#run-error", "a quote is not closed")


async def test_an_earlier_job_is_a_template(service: Service, open_tab: Any) -> None:
    """Each name is offered once, with its latest job; the form is filled with what can be known of it."""
    for number in (1, 2):
        await service.run(f": template {number}", name="template", labels={"a": "b"}, timeout=60)
    tab = await open_tab(service)
    await tab.wait_until_live()
    await tab.page.click("#run-templates")
    await tab.page.fill("#template-search", "template")
    await tab.until("() => document.querySelectorAll('#template-list li').length === 1")
    await tab.page.click("#template-list button")
    await tab.until("() => document.getElementById('run-command').value === ': template 2'")
    assert await tab.page.input_value("#run-fields [name=timeout]") == "1m"
    await tab.page.press("#run-command", "Enter")
    await tab.wait_until_ended("exit 0")
    _, _, found = await service.get("/api/jobs?limit=1")
    assert (found["jobs"][0]["name"], found["jobs"][0]["again_of"]) == ("template", None)


async def test_values_survive_being_written(service: Service, open_tab: Any) -> None:
    """Formatting a value and parsing the text gives the value."""
    tab = await open_tab(service)
    random = Random(0)
    texts = ["".join(random.choices("\"\\\n =a'я", k=random.randrange(8))) for _ in range(1000)]
    values = {
        "duration": [0.5, 1, 59, 90, 3600, 5400, 86400, 90000],
        "size": [1, 1023, 1024, 2**20, 3 * 2**30, 2**40, 2**40 + 1],
        "assignments": [
            {"a": "b"},
            {"a": "", "b": "c=d", "e": " f "},
            {f"n{at}": each for at, each in enumerate(texts)},
        ],
        "ids": [[1], [1, 22]],
        "instant": ["2026-12-24T09:00:00.000Z", "2026-07-01T23:59:59.000Z"],
    }
    script = """return Object.entries(given).map(([kind, values]) =>
        [kind, values.map((value) => module[kind].parse(module[kind].format(value)))]);"""
    assert dict(await tab.call_module("form/values.js", script, values)) == values
