"""Running a job again: what the service does not store is asked for, and never left out."""

from typing import Any

import pytest

from tests.support.service import Service

pytestmark = pytest.mark.asyncio(loop_scope="session")

SECRETS = {"PREFIX": "/srv/one", "EMPTY": "", "LINES": "a b"}
SHOW = 'printf "%s|%s|%s|" "$PREFIX" "$EMPTY" "$LINES"; cat'


async def ended(tab: Any, service: Service, other_than: int) -> Any:
    """Wait until the view shows the end of another job than this one; return its document and its result."""
    await tab.until(f"() => !location.hash.includes('job={other_than}')")
    await tab.wait_until_ended("exit 0")
    job = int((await tab.page.text_content("#job-name")).split()[1])
    return (await service.get(f"/api/jobs/{job}"))[2], await service.result(job)


async def test_run_again_asks_for_what_is_not_stored(service: Service, open_tab: Any) -> None:
    """Nothing runs before each variable and standard input were entered, or marked as empty; the rest stays."""
    job = await service.submit(SHOW, env=SECRETS, stdin="old input", labels={"a": "b c"}, priority=7, cwd="/")
    await service.result(job)
    tab = await open_tab(service, f"#job={job}")
    await tab.wait_until_ended("exit 0")
    submitted = []
    tab.page.on("request", lambda request: submitted.append(request.post_data) if request.method == "POST" else None)
    await tab.page.click("#job-rerun")
    await tab.page.click("#again [type=submit]")
    await tab.wait_for("#again .form-error", "PREFIX: enter its value")
    assert submitted == []
    await tab.page.fill("#again [name='env.PREFIX']", "/srv/two")
    await tab.page.fill("#again [name='env.LINES']", "c d")
    await tab.page.click("#again .secret:has([name='env.EMPTY']) [type=checkbox]")
    await tab.page.fill("#again [name=stdin]", "new input")
    await tab.page.click("#again [type=submit]")
    again, result = await ended(tab, service, job)
    assert result["stdout"] == "/srv/two||c d|new input"
    assert (again["again_of"], again["labels"], again["priority"], again["cwd"]) == (job, {"a": "b c"}, 7, "/")


async def test_a_job_that_is_changed_first_needs_its_secrets_too(service: Service, open_tab: Any) -> None:
    """The run box, filled from a job, submits nothing while a value is missing; then it runs with all the rest."""
    job = await service.submit(f"{SHOW}; :", env={"PREFIX": "x"}, stdin="old", name="changed", timeout=90, after=[])
    await service.result(job)
    tab = await open_tab(service, f"#job={job}")
    await tab.wait_until_ended("exit 0")
    await tab.page.keyboard.press("r")
    await tab.page.click("#again-edit")
    assert await tab.page.input_value("#run-command") == f"{SHOW}; :"
    await tab.page.press("#run-command", "Enter")
    await tab.wait_for("#run-fields .error", "PREFIX")
    await tab.page.fill("#run-fields [name=env]", "PREFIX=y")
    await tab.page.press("#run-command", "Enter")
    await tab.wait_for("#run-fields .field:has([name=stdin]) .error")
    await tab.page.fill("#run-fields [name=stdin]", "new")
    await tab.page.press("#run-fields [name=stdin]", "Control+Enter")
    again, result = await ended(tab, service, job)
    assert result["stdout"] == "y|||new"
    assert (again["name"], again["timeout"], again["again_of"]) == ("changed", 90, job)


async def test_input_that_there_may_have_been_is_confirmed(service: Service, open_tab: Any) -> None:
    """If the service does not know whether a job had input, to run it once more says that there is none."""
    job = await service.submit("cat; echo no input")
    await service.result(job)
    tab = await open_tab(service, f"#job={job}")
    await tab.wait_until_ended("exit 0")
    error = {"pointer": "#/stdin", "detail": "give it, or null"}
    refusal = {"type": "/problems/invalid-job", "title": "Invalid job", "status": 422, "errors": [error]}
    submitted: list[Any] = []

    async def refuse_without_input(route: Any) -> None:
        submitted.append(route.request.post_data_json)
        await (route.continue_() if "stdin" in submitted[-1] else route.fulfill(status=422, json=refusal))

    await tab.page.route("**/again", refuse_without_input)
    await tab.page.keyboard.press("r")
    await tab.page.click("#again-edit")
    await tab.page.press("#run-command", "Enter")
    await tab.wait_for("#run-fields .field:has([name=stdin]) .error", "give it, or null")
    await tab.page.press("#run-command", "Enter")
    _, result = await ended(tab, service, job)
    assert (result["stdout"], submitted[1:]) == ("no input\n", [{"stdin": None}])


async def test_a_recalled_command_needs_its_variables(service: Service, open_tab: Any) -> None:
    """The arrow keys recall earlier commands with their settings and the draft; unknown values stop it."""
    job = await service.submit("echo $WORD recalled", cwd="/tmp", env={"WORD": "secret"})
    await service.result(job)
    tab = await open_tab(service)
    await tab.wait_until_live()
    await tab.page.fill("#run-command", "draft")
    await tab.page.press("#run-command", "ArrowUp")
    await tab.until("() => document.getElementById('run-command').value === 'echo $WORD recalled'")
    assert await tab.page.input_value("#run-fields [name=cwd]") == "/tmp"
    await tab.page.press("#run-command", "Enter")
    await tab.wait_for("#run-fields .error", "WORD")
    await tab.page.focus("#run-command")
    await tab.page.press("#run-command", "ArrowDown")
    await tab.until("() => document.getElementById('run-command').value === 'draft'")
    assert await tab.page.input_value("#run-fields [name=env]") == ""


async def test_an_argument_list_stays_one(service: Service, open_tab: Any) -> None:
    """A job without a shell is run again without one, also when its words are changed."""
    job = await service.submit(argv=["printf", "[%s]", "a b", "c'd", "*"])
    await service.result(job)
    tab = await open_tab(service, f"#job={job}")
    await tab.wait_until_ended("exit 0")
    await tab.page.keyboard.press("r")
    await tab.page.click("#again-edit")
    await tab.page.press("#run-command", "End")
    await tab.page.type("#run-command", " \"e f\" '$X'")
    await tab.page.press("#run-command", "Enter")
    again, result = await ended(tab, service, job)
    assert again["argv"] == ["printf", "[%s]", "a b", "c'd", "*", "e f", "$X"]
    assert result["stdout"] == "[a b][c'd][*][e f][$X]"


async def test_what_is_taken_out_of_a_job_is_gone(service: Service, open_tab: Any) -> None:
    """Variables, labels, limits and retries that are removed in the run box are not in the job that runs again."""
    about = {"env": {"A": "1", "B": "2"}, "labels": {"a": "1", "b": "2"}, "stdin": "old"}
    limits = {"open_files": 64, "output_bytes": 1000}
    job = await service.submit("echo $A $B; cat", limits=limits, retries={"max": 1, "delay": 5}, **about)
    await service.result(job)
    tab = await open_tab(service, f"#job={job}")
    await tab.wait_until_ended("exit 0")
    await tab.page.keyboard.press("r")
    await tab.page.click("#again-edit")
    texts = {
        "env": "B=3",
        "labels": "b=2",
        "limits.open_files": "",
        "retries.max": "",
        "retries.delay": "",
        "retries.on": "",
    }
    for name, text in texts.items():
        await tab.page.fill(f"#run-fields [name='{name}']", text)
    await tab.page.press("#run-command", "Enter")
    await tab.wait_for("#run-fields .error", "Enter it again, or press Run once more to run without it")
    await tab.page.press("#run-command", "Enter")
    again, result = await ended(tab, service, job)
    assert (again["env"], again["labels"], again["retries"], again["stdin"]) == (["B"], {"b": "2"}, None, None)
    assert (again["limits"]["open_files"], again["limits"]["output_bytes"]) == (None, 1000)
    assert result["stdout"] == "3\n"


async def test_a_phone_shows_the_run_box_for_a_change(service: Service, open_tab: Any) -> None:
    """Where the job covers the list, changing it first closes the job, so that the filled run box is seen."""
    job = await service.submit(": on a phone", name="phone")
    await service.result(job)
    tab = await open_tab(service, f"#job={job}", size=(360, 740))
    await tab.wait_until_ended("exit 0")
    await tab.page.click("#job-rerun")
    await tab.page.click("#again-edit")
    await tab.wait_for("#run-again", f"Job {job} again")
    assert await tab.page.input_value("#run-command") == ": on a phone"
    await tab.page.click("#run-submit")
    again, _ = await ended(tab, service, job)
    assert (again["name"], again["again_of"]) == ("phone", job)


async def test_what_the_service_misses_is_asked_for(service: Service, open_tab: Any) -> None:
    """A job that still runs is submitted as it is; what the service then asks for becomes a field."""
    job = await service.submit('echo "got $WORD"; sleep ${WORD:-1000}', env={"WORD": ""})
    tab = await open_tab(service, f"#job={job}")
    await tab.wait_for_output("got")
    await tab.page.click("#job-rerun")
    assert await tab.page.locator("#again-fields textarea").count() == 0
    await tab.page.click("#again [type=submit]")
    await tab.page.fill("#again [name='env.WORD']", "0")
    await tab.page.press("#again [name='env.WORD']", "Enter")
    _, result = await ended(tab, service, job)
    assert result["stdout"] == "got 0\n"
    await service.ask("POST", f"/api/jobs/{job}/cancel")
