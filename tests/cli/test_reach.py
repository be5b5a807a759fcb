"""The reach of the command line: every route has a verb or an option, or a reason why it has none."""

import re
from pathlib import Path

import click
import pytest

from shellrunner.cli.verb_group import VERBS, cli
from shellrunner.web import ROUTES

# By route: the verb, and the option or the action with which it calls that route.
CALLED_BY = {
    "GET /api": "submit",  # whether the service is on this machine
    "GET /api/jobs": "ps",
    "POST /api/jobs": "submit",
    "POST /api/jobs/batch": "batch",
    "POST /api/jobs/cancel": "cancel --filter",
    "DELETE /api/jobs": "prune",
    "GET /api/jobs/{}": "show",
    "PATCH /api/jobs/{}": "edit",
    "DELETE /api/jobs/{}": "rm",
    "POST /api/jobs/{}/again": "again",
    "POST /api/jobs/{}/cancel": "cancel",
    "POST /api/jobs/{}/signal": "signal --tree",
    "POST /api/jobs/{}/stdin": "send",
    "POST /api/jobs/{}/pause": "pause",
    "POST /api/jobs/{}/resume": "resume",
    "POST /api/jobs/{}/tty": "attach",
    "GET /api/queues": "queues",
    "POST /api/queues/pause": "queues --all",
    "POST /api/queues/resume": "queues --all",
    "GET /api/queues/{}": "queues set",
    "PUT /api/queues/{}": "queues create",
    "DELETE /api/queues/{}": "queues rm",
    "POST /api/queues/{}/pause": "queues pause",
    "POST /api/queues/{}/resume": "queues resume",
    "GET /api/workers": "hosts",
    "DELETE /api/workers/{}": "hosts rm",
    "POST /api/workers/{}/drain": "drain",
    "POST /api/workers/{}/resume": "undrain",
    "GET /api/keepers": "keepers",
    "DELETE /api/keepers/{}": "keepers end",
    "GET /api/statuses": "ps",
    "GET /api/statuses/events": "ps --watch",
    "GET /api/statuses/usage": "top",
    "GET /api/statuses/{}": "show",
    "GET /api/statuses/{}/usage": "top",  # of all at once
    "GET /api/statuses/{}/events": "logs --follow",
    "GET /api/statuses/{}/output": "logs --from",
    "GET /api/results/{}": "show",
    "DELETE /api/results/{}": "rm --output-only",
    "GET /api/results/{}/stdout": "logs --stdout",
    "GET /api/results/{}/stderr": "logs --stderr",
    "GET /api/results/{}/attempts/{}": "logs --attempt",
    "GET /api/results/{}/attempts/{}/stdout": "logs --attempt",
    "GET /api/results/{}/attempts/{}/stderr": "logs --attempt",
}
WITHOUT_VERB = {
    "GET /api/openapi.json": "for generators of clients",
    "GET /api/results": "wait and show have results by id, and ps -o json the endings of many jobs",
    "GET /api/statuses/{}/output/line": "for a viewer that jumps to a line; logs | sed has all lines already",
    "GET /api/workers/{}": "hosts has all of them",
    "POST /api/session": "a browser's session",
    "DELETE /api/session": "a browser's session",
    "GET /": "the page",
    "GET /assets/{}/{}": "the page",
    "GET /llms.txt": "documentation",
    "GET /llms-full.txt": "documentation",
    "GET /docs": "documentation",
    "GET /docs/{}": "documentation",
    "GET /healthz": "for probes",
    "GET /readyz": "for probes",
    "GET /metrics": "for Prometheus",
}


def plain(verb: str, path: str) -> str:
    """Return a route with each variable part as braces."""
    return f"{verb} {re.sub(r'{(?:[^{}]|{[^{}]*})*}', '{}', path)}"


@pytest.mark.parametrize("route", sorted({plain(row.verb, row.path) for row in ROUTES}))
def test_each_route_has_a_verb_or_a_reason(route: str) -> None:
    """The verb of CALLED_BY exists, with its option or action; a route that has none is in WITHOUT_VERB."""
    if route not in CALLED_BY:
        assert WITHOUT_VERB.get(route), f"{route} has neither a verb nor a reason"
        return
    name, _, detail = CALLED_BY[route].partition(" ")
    assert name in VERBS
    verb = cli.get_command(click.Context(cli), name)
    assert verb is not None
    options = {option for parameter in verb.params for option in parameter.opts}
    actions = {
        str(choice) for each in verb.params if isinstance(each.type, click.Choice) for choice in each.type.choices
    }
    assert not detail or detail in options | actions


def test_no_verb_or_reason_is_left_over() -> None:
    """Each row names a route that exists, and no route has both."""
    assert set(CALLED_BY) | set(WITHOUT_VERB) <= {plain(row.verb, row.path) for row in ROUTES}
    assert not set(CALLED_BY) & set(WITHOUT_VERB)


# The options of each verb of pueue 4.0.4, and of the program itself under an empty name (pueue/src/client/cli.rs).
PUEUE = {
    "": "--verbose --color --config --profile",
    "add": "--working-directory --escape --immediate --follow --stashed --delay --group --after --priority --label"
    " --print-task-id",
    "remove": "", "switch": "", "stash": "--group --all --delay", "enqueue": "--group --all --delay",
    "start": "--group --all", "restart": "--all-failed --failed-in-group --immediate --stashed --in-place"
    " --not-in-place --edit",
    "pause": "--group --all --wait", "kill": "--group --all --signal", "send": "", "edit": "", "env": "",
    "group": "--json --parallel", "status": "--json --group", "log": "--group --all --json --lines --full",
    "follow": "--lines", "wait": "--group --all --quiet --status", "clean": "--successful-only --group",
    "reset": "--groups --force", "shutdown": "", "parallel": "--group", "completions": "",
}  # fmt: skip
# What task-spooler 1.0.1 and its fork 2.0.0 have (`tsp -h`).
TASK_SPOOLER = (
    "-K -C -l -S -t -c -p -o -i -s -r -w -k -u -U -B -h -V -n -E -g -f -m -d -D -L -N -T -W -z -O -G -a -F -R -q -M"
    " --getenv --setenv --unsetenv --get_label --full_cmd --count_running --last_queue_id --get_logdir --set_logdir"
    " --serialize --set_gpu_free_perc --get_gpu_free_perc --gpus --gpu_indices TS_SOCKET TS_MAILTO TS_MAXFINISHED"
    " TS_MAXCONN TS_ONFINISH TS_ENV TS_SAVELIST TS_SLOTS TS_VISIBLE_DEVICES TMPDIR"
)


def test_the_comparison_names_all_of_the_others() -> None:
    """Each verb and option of pueue has a row, and so has each of task-spooler."""
    page = (Path(__file__).parents[2] / "docs/how-to/move-from-pueue.md").read_text()
    pueue, task_spooler = page.split("\n## ")[1:]
    named: dict[str, set[str]] = {"": set()}
    for cell in re.findall(r"^\| (.*?) \|", pueue, re.MULTILINE):
        verbs = [""]
        for words in (span.split() for span in re.findall(r"`([^`]+)`", cell)):
            if not words[0].startswith("-"):
                verbs = [words[0], *(verbs if "with" in cell else [])]
            for verb in verbs:
                named.setdefault(verb, set()).update(word for word in words if word.startswith("--"))
    assert {verb: set(options.split()) - named.get(verb, set()) for verb, options in PUEUE.items()} == {
        verb: set() for verb in PUEUE
    }
    assert set(PUEUE) <= set(named)
    cells = " ".join(re.findall(r"^\| (.*?) \|", task_spooler, re.MULTILINE))
    assert set(TASK_SPOOLER.split()) <= set(re.findall(r"`([^` ]+)`", cells))


def test_the_comparison_names_what_exists() -> None:
    """Each option that the page about other programs gives for ours is one of a verb that it names."""
    page = Path(__file__).parents[2] / "docs/how-to/move-from-pueue.md"
    ours = [row.split("|")[2] for row in page.read_text().splitlines() if row.startswith("| ") and "---" not in row]
    verbs = {name: cli.get_command(click.Context(cli), name) for name in VERBS}
    parameters = [each for verb in verbs.values() if verb for each in verb.params]
    known = {option for each in parameters for option in (*each.opts, *each.secondary_opts)} | {"--version"}
    named = {option for cell in ours for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", cell)} - {"--help"}
    assert named <= known
    assert {word for cell in ours for word in re.findall(r"`([a-z]+)[ `]", cell)} - {"add"} <= set(VERBS)
