"""Command rules: what no rule names literally is rejected, with a pointer to it; and who may change which job."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from shellrunner.access import ALL_SCOPES, Identity, service_user
from shellrunner.access.command_rules import (
    check_command,
    check_ownership,
    check_signal,
    check_stdin,
    check_submission,
)
from shellrunner.config import Rule, Token
from shellrunner.config.auth import Scope
from shellrunner.errors import CommandNotAllowed, InsufficientScope, NoSuchJob, NotYours
from shellrunner.model import JobSpec
from tests.support.tokens import hash_of

# Few words, alike, so that what is asked for is often nearly what is allowed.
WORDS = ["ls", "ls ", "LS", "/bin/ls", "-l", "-l;id", "", "é", "e\u0301", "ls -l"]
VARIABLES = ["LANG", "lang", "LD_PRELOAD", "PATH", "BASH_ENV", "A/B~C"]
PLACES = ["/srv", "/srv/", "/srv/.", "/srv/../etc", "//srv", "/"]
OPTIONS = ["stdin", "tty", "limits", "leave_children", "signal"]
HARMLESS = {
    "timeout": 5.0, "priority": 3, "queue": "q", "labels": {"a": "b"}, "merge_stderr": True, "encoding": "koi8-r",
    "after": [1], "start_at": "2026-11-24T15:31:42Z", "retries": {"max": 3}, "notify": {"url": "http://x/"},
    "limits": {"output_bytes": 7},
}  # fmt: skip

words = st.sampled_from(WORDS)
argvs = st.lists(words, min_size=1, max_size=4).filter(lambda argv: argv[0])
lines = words.filter(bool)
named = st.one_of(
    st.fixed_dictionaries({"command": lines}),
    st.fixed_dictionaries({"argv": argvs}),
    st.fixed_dictionaries({"prefix": argvs}),
)
beside = st.fixed_dictionaries(
    {
        "env": st.lists(st.sampled_from(VARIABLES), max_size=2),
        "cwd": st.lists(st.sampled_from(PLACES).map(Path), max_size=2),
        "options": st.lists(st.sampled_from(OPTIONS), max_size=4),
    }
)
rules = st.builds(lambda one, other: Rule(**one, **other), named, beside)
optional = {
    "env": st.dictionaries(st.sampled_from(VARIABLES), words, max_size=2),
    "cwd": st.sampled_from(PLACES),
    "stdin": st.one_of(words, st.just({"stream": True})),
    "tty": st.just(value=True),
    "leave_children": st.booleans(),
    "limits": st.sampled_from([{"open_files": 8}, {"output_bytes": 7}, {"processes": 1, "cpu_seconds": 1}]),
}
asked = st.one_of(
    st.fixed_dictionaries({"command": lines}, optional=optional),
    st.fixed_dictionaries({"argv": argvs}, optional=optional),
)


def identity_with(
    *rules: Rule, run_as: str | None = None, name: str = "ci", scopes: Sequence[Scope] = ("read", "run")
) -> Identity:
    token = Token(name=name, hash=hash_of(name), scopes=[*scopes], run_as=run_as, commands=list(rules) or None)
    return Identity(f"token:{name}", frozenset(scopes), token)


def rejected_at(identity: Identity, **spec: Any) -> str:
    """Return the pointer of the rejection; empty if the job is allowed."""
    try:
        check_command(identity, JobSpec(**spec))
    except CommandNotAllowed as error:
        (fault,) = error.members["errors"]
        return str(fault["pointer"])
    return ""


def would_allow(rule: Rule, spec: dict[str, Any]) -> bool:
    """Return the same rules, implemented a second time, from the submitted JSON instead of the model."""
    if "command" in spec:
        same = rule.command is not None and rule.command == spec["command"]
    elif rule.argv is not None:
        same = rule.argv == spec["argv"]
    else:
        same = rule.prefix is not None and rule.prefix == [*spec["argv"]][: len(rule.prefix)]
    needs: set[str] = {key for key in ("stdin", "tty", "leave_children") if key in spec}
    if set(spec.get("limits", {})) - {"output_bytes"}:
        needs.add("limits")
    if {"tty", "stdin"} <= set(spec):
        needs.add("signal")
    return (
        same
        and set(spec.get("env", {})) <= set(rule.env)
        and ("cwd" not in spec or spec["cwd"] in [str(place) for place in rule.cwd])
        and needs <= set(rule.options)
    )


@pytest.mark.heavy
@settings(max_examples=400, deadline=None)
@given(st.lists(rules, min_size=1, max_size=4), asked)
@example([Rule(command="ls -l")], {"argv": ["ls", "-l"]})
@example([Rule(argv=["ls", "-l"])], {"command": "ls -l"})
@example([Rule(prefix=["ls"])], {"command": "ls ; id"})
def test_a_job_is_allowed_if_and_only_if_one_rule_allows_all_of_it(listed: list[Rule], spec: dict[str, Any]) -> None:
    """No two rules together allow what neither does alone, and a rejection points to something that was submitted."""
    pointer = rejected_at(identity_with(*listed), **spec)
    assert (pointer == "") == any(would_allow(rule, spec) for rule in listed)
    place: Any = spec
    for step in pointer.split("/")[1:]:
        place = place[step.replace("~1", "/").replace("~0", "~")]


@pytest.mark.heavy
@settings(max_examples=200, deadline=None)
@given(rules, asked, st.dictionaries(st.sampled_from([*HARMLESS]), st.none()))
def test_what_only_says_when_and_how_long_changes_nothing(rule: Rule, spec: dict[str, Any], more: Any) -> None:
    """Timeouts, queues, retries and the like change nothing about whether a job is allowed."""
    harmless = {key: HARMLESS[key] for key in more if key not in spec}
    assert rejected_at(identity_with(rule), **spec) == rejected_at(identity_with(rule), **spec, **harmless)


@pytest.mark.heavy
@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=30))
@example("ls -l ")
@example(" ls -l")
@example("ls -l\n")
@example("ls -l #")
@example("ls  -l")
@example("ls -l;id")
def test_no_other_line_is_the_line(line: str) -> None:
    """A shell line is allowed only if it equals the rule's exactly."""
    assert (rejected_at(identity_with(Rule(command="ls -l")), command=line) == "") == (line == "ls -l")


@pytest.mark.heavy
@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_characters="\0=", exclude_categories=["Cs"]), min_size=1, max_size=150))
@example("LD_PRELOAD")
@example("lang")
@example("BASH_FUNC_ls%%")
@example("LANG ")
def test_no_other_variable_is_the_variable(name: str) -> None:
    """A variable is allowed only under exactly its name, and the pointer names any other."""
    if name in {"SHELLRUNNER_JOB", "SHELLRUNNER_JOB_ID"}:
        return
    pointer = rejected_at(identity_with(Rule(command="x", env=["LANG"])), command="x", env={name: "v"})
    assert (pointer == "") == (name == "LANG")
    assert pointer in ("", f"#/env/{name[:100].replace('~', '~0').replace('/', '~1')}")


@pytest.mark.parametrize(
    ("rule", "spec", "pointer"),
    [
        ({"argv": ["git", "log"]}, {"argv": ["git", "log"]}, ""),
        ({"argv": ["git", "log"]}, {"argv": ["git", "log"], "tty": True, "stdin": {"stream": True}}, "#/stdin"),
        ({"argv": ["git", "log"], "options": ["stdin"]}, {"argv": ["git", "log"], "stdin": "", "tty": True}, "#/tty"),
        ({"argv": ["git", "log"]}, {"argv": ["git", "log", "-p"]}, "#/argv"),
        ({"prefix": ["git", "log"]}, {"argv": ["git", "log", "-p"]}, ""),
        ({"prefix": ["git", "log"]}, {"argv": ["git"]}, "#/argv"),
        ({"prefix": ["git", "log"]}, {"argv": ["./git", "log"]}, "#/argv"),
        ({"prefix": ["git", "log"]}, {"argv": ["git log", "x"]}, "#/argv"),
        ({"prefix": ["./run"], "cwd": ["/srv"]}, {"argv": ["./run"], "cwd": "/tmp"}, "#/cwd"),
        ({"prefix": ["./run"], "cwd": ["/srv"]}, {"argv": ["./run"], "cwd": "/srv"}, ""),
        ({"command": "ls"}, {"argv": ["/bin/sh", "-c", "ls"]}, "#/argv"),
        ({"command": "ls", "env": ["LANG"]}, {"command": "ls", "env": {"LANG": "C", "ENV": "/x"}}, "#/env/ENV"),
        ({"command": "ls"}, {"command": "ls", "limits": {"output_bytes": 1, "processes": 1}}, "#/limits/processes"),
        ({"command": "ls"}, {"command": "ls", "leave_children": False}, "#/leave_children"),
        ({"command": "ls"}, {"command": "ls", **HARMLESS}, ""),
        ({"command": "ls", "options": ["stdin", "tty"]}, {"command": "ls", "stdin": "\3", "tty": True}, "#/tty"),
        ({"command": "ls", "options": ["tty"]}, {"command": "ls", "tty": True}, ""),
        ({"command": "ls", "options": ["stdin", "tty", "signal"]}, {"command": "ls", "stdin": "\3", "tty": True}, ""),
    ],
)  # fmt: skip
def test_ways_around(rule: dict[str, Any], spec: dict[str, Any], pointer: str) -> None:
    """Each way around a rule is rejected with a pointer to what is too much; anything else is allowed."""
    assert rejected_at(identity_with(Rule.model_validate(rule, strict=False)), **spec) == pointer


def test_an_unrestricted_identity_may_run_anything() -> None:
    """Without `commands` nothing is rejected, with run_as or without, as for the service's own user."""
    everything = {"command": "x", "env": {"LD_PRELOAD": "/x"}, "cwd": "/", "stdin": "x", "tty": True}
    for identity in (identity_with(), identity_with(run_as="nobody"), service_user(0)):
        assert rejected_at(identity, **everything) == ""


def test_the_message_names_who_and_why_but_not_what_is_allowed() -> None:
    """The message names the token and what is not allowed, and no other command."""
    with pytest.raises(CommandNotAllowed) as first:
        check_command(identity_with(Rule(command="secret --password x")), JobSpec(command="id"))
    assert first.value.detail == "token:ci is not allowed to run this command"
    with pytest.raises(CommandNotAllowed) as second:
        check_command(identity_with(Rule(command="id")), JobSpec(command="id", env={"PATH": "/evil"}))
    assert second.value.detail == "token:ci is not allowed to run this command with the variable PATH"


@pytest.mark.parametrize(
    "rule",
    [
        {},
        {"command": "a", "argv": ["a"]},
        {"command": ""},
        {"argv": []},
        {"prefix": [""]},
        {"argv": ["", "a"]},
        {"command": "x", "options": ["env"]},
    ],
)
def test_a_rule_without_a_command_or_with_two_is_invalid(rule: dict[str, Any]) -> None:
    """A rule that could never match, or whose meaning would be ambiguous, is invalid."""
    with pytest.raises(ValidationError):
        Rule(**rule)


# Ownership of jobs --------------------------------------------------------------------------------------------


@pytest.mark.heavy
@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([None, "nobody", "root"]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([None, "token:ci", "token:cd", "ci", "uid:0"]),
    st.sampled_from([None, "nobody", "root"]),
)
def test_an_identity_changes_its_own_jobs_and_others_only_if_nothing_forbids_it(
    run_as: str | None, has_list: bool, reads: bool, submitter: str | None, ran_as: str | None
) -> None:
    """With run_as or commands a job of others is `NotYours`; without `read` it does not exist in any case."""
    rules = [Rule(command="ls")] if has_list else []
    identity = identity_with(*rules, run_as=run_as, scopes=("read", "run") if reads else ("run",))
    refused: type[Exception] | None = None if reads else NoSuchJob
    if reads and (run_as or has_list):
        refused = NotYours
    if refused is None or (submitter == "token:ci" and ran_as == run_as):
        check_ownership(identity, 5, submitter, ran_as)
    else:
        with pytest.raises(refused) as error:
            check_ownership(identity, 5, submitter, ran_as)
        assert reads or str(error.value) == str(NoSuchJob(5))


def test_an_unrestricted_identity_changes_every_job() -> None:
    """Other tokens and the service's own user may change every job, also those without a recorded submitter."""
    for identity in (identity_with(), service_user(0), Identity("token:x", ALL_SCOPES, identity_with().token)):
        for whose in (None, "token:other", "uid:7"):
            check_ownership(identity, 5, whose, None)  # no error is raised
        check_stdin(identity, JobSpec(command="ls"))
        check_signal(identity, JobSpec(command="ls"))


def test_a_command_that_may_not_be_run_any_more_accepts_no_input_and_no_signal() -> None:
    """A shell that was started before the token was restricted accepts nothing from it, but may be cancelled."""
    identity = identity_with(Rule(command="cat", options=["stdin", "signal"]))
    shell = JobSpec.model_validate({"command": "sh", "stdin": {"stream": True}})
    for check in (check_stdin, check_signal):
        with pytest.raises(CommandNotAllowed):
            check(identity, shell)
        check(identity, JobSpec.model_validate({"command": "cat", "stdin": {"stream": True}, "env": {}}))


def test_a_signal_needs_the_option_of_the_rule_that_allows_the_command() -> None:
    """The option of one rule is not one of another, and the rejection points to the signal."""
    identity = identity_with(Rule(command="ls"), Rule(command="sleep 9", options=["signal"]))
    check_signal(identity, JobSpec(command="sleep 9"))
    with pytest.raises(CommandNotAllowed) as refused:
        check_signal(identity, JobSpec(command="ls"))
    assert refused.value.members["errors"][0]["pointer"] == "#/signal"
    assert refused.value.detail == "token:ci is not allowed to run this command with signal"


def test_a_callback_needs_the_scope_read() -> None:
    """Who may not read results may not have them sent, with a rule or without; the command is judged first."""
    notified = JobSpec.model_validate({"command": "ls", "notify": {"url": "http://x/"}})
    for rules in ([], [Rule(command="ls")]):
        check_submission(identity_with(*rules), notified)
        check_submission(identity_with(*rules, scopes=("run",)), JobSpec(command="ls"))
        with pytest.raises(InsufficientScope) as refused:
            check_submission(identity_with(*rules, scopes=("run",)), notified)
        assert refused.value.scope == "read"
    with pytest.raises(CommandNotAllowed):
        check_submission(identity_with(Rule(command="id"), scopes=("run",)), notified)
