"""Merge patches: RFC 7396's own examples, its laws, and specifications that are made by them."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shellrunner.errors import InvalidJob
from shellrunner.model import JobPatch, JobSpec, Streamed
from shellrunner.wire import merge_patch

# RFC 7396, appendix A: the original, the patch, the result.
EXAMPLES: list[tuple[Any, Any, Any]] = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    (["a", "b"], ["c", "d"], ["c", "d"]),
    ({"a": "b"}, ["c"], ["c"]),
    ({"a": "foo"}, None, None),
    ({"a": "foo"}, "bar", "bar"),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
]

json = st.recursive(
    st.none() | st.booleans() | st.integers(0, 9) | st.sampled_from(["", "x"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
few = settings(max_examples=100, deadline=None)


@pytest.mark.parametrize(("original", "patch", "result"), EXAMPLES)
def test_the_examples_of_the_rfc(original: Any, patch: Any, result: Any) -> None:
    """Each gives the result that the RFC says."""
    assert merge_patch.merge(original, patch) == result


@few
@given(json, json)
def test_the_laws_of_a_patch(target: Any, patch: Any) -> None:
    """Twice is as once, what is not named stays, what is null is gone, and the arguments stay as they are."""
    given_target, given_patch = repr(target), repr(patch)
    merged = merge_patch.merge(target, patch)
    assert merge_patch.merge(merged, patch) == merged
    assert (repr(target), repr(patch)) == (given_target, given_patch)
    if isinstance(patch, dict):
        assert {key for key, value in patch.items() if value is None}.isdisjoint(merged)
        if isinstance(target, dict):
            assert all(merged[key] == value for key, value in target.items() if key not in patch)
    else:
        assert merged == patch


SPEC = JobSpec(command="x", name="n", priority=3, labels={"a": "1", "b": "2"}, timeout=5.0, after=(4,), held=True)


@few
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "name": st.sampled_from([None, "m"]),
            "priority": st.none() | st.integers(-3, 3),
            "queue": st.sampled_from([None, "slow"]),
            "timeout": st.none() | st.floats(0.5, 9),
            "labels": st.none()
            | st.dictionaries(st.sampled_from(["a", "b", "c"]), st.none() | st.sampled_from(["1", "9"])),
            "after": st.none() | st.lists(st.integers(1, 9), max_size=2),
            "held": st.none() | st.booleans(),
            "start_at": st.sampled_from([None, "2100-01-01T00:00:00.000Z"]),
        },
    )
)
def test_only_what_is_named_changes(patch: dict[str, Any]) -> None:
    """Each key that is given has its value, or its default for null; labels are merged; all others stay."""
    new = merge_patch.patched(SPEC, patch)
    default = JobSpec(command="x")
    for key in JobSpec.model_fields:
        value = getattr(new, key)
        if key not in patch:
            assert value == getattr(SPEC, key)
        elif patch[key] is None:
            assert value == getattr(default, key)
        elif key == "labels":
            merged = {**SPEC.labels, **patch[key]}
            assert value == {name: text for name, text in merged.items() if text is not None}
        else:
            assert value == (tuple(patch[key]) if key == "after" else patch[key])


def test_what_cannot_be_changed_is_named() -> None:
    """A key that is fixed, or unknown, and a body that is no object are errors at their places."""
    for patch, pointer, detail in (
        ({"command": "y"}, "#/command", "cannot be changed"),
        ({"env": None}, "#/env", "cannot be changed"),
        ({"nmae": "y"}, "#/nmae", "is not a known key"),
        ([], "#", "must be an object"),
        ({"priority": "high"}, "#/priority", "must be a whole number"),
        ({"labels": {"a b": "1"}}, "#/labels/a b", None),
        ({"labels": {"a": "\0"}}, "#/labels/a", "must not contain NUL"),
    ):
        with pytest.raises(InvalidJob) as caught:
            merge_patch.patched(SPEC, patch)
        (error,) = caught.value.members["errors"]
        assert error["pointer"] == pointer
        assert detail in (None, error["detail"])


def test_all_keys_that_can_be_changed_are_keys_of_a_job() -> None:
    """The patch of a job has no key of its own."""
    assert JobPatch.model_fields.keys() < JobSpec.model_fields.keys()


def test_values_that_are_not_kept_must_be_given_again() -> None:
    """Each variable and the text for standard input is named until it is given, or left out by null."""
    spec = JobSpec(command="x", env={"A": "1", "B/C": "2"}, stdin="text", after=(3,), held=True).redacted()
    for patch, pointers in (
        ({}, ["#/env/A", "#/env/B~1C", "#/stdin"]),
        ({"env": {"A": "5"}}, ["#/env/B~1C", "#/stdin"]),
        ({"env": None}, ["#/stdin"]),
        ({"env": {"A": None}, "stdin": None}, ["#/env/B~1C"]),
    ):
        with pytest.raises(InvalidJob) as caught:
            merge_patch.repeated(spec, patch)
        assert [error["pointer"] for error in caught.value.members["errors"]] == pointers
    new = merge_patch.repeated(spec, {"env": {"A": "5", "B/C": None, "D": "6"}, "stdin": ""})
    assert new == JobSpec(command="x", env={"A": "5", "D": "6"}, stdin="")


@pytest.mark.parametrize(
    ("known", "stream", "is_missing"), [(True, False, False), (False, False, True), (False, True, False)]
)
def test_text_that_there_may_have_been_must_be_given_again(*, known: bool, stream: bool, is_missing: bool) -> None:
    """Where an earlier version did not record whether there was text, it is given or left out on purpose."""
    spec = JobSpec(command="x", stdin=Streamed(stream=True) if stream else None)
    if is_missing:
        with pytest.raises(InvalidJob, match="#/stdin: an earlier version"):
            merge_patch.repeated(spec, {}, is_input_known=known)
        assert merge_patch.repeated(spec, {"stdin": None}, is_input_known=known) == spec
    else:
        assert merge_patch.repeated(spec, {}, is_input_known=known) == spec


def test_a_command_takes_the_place_of_arguments() -> None:
    """Whichever of `command` and `argv` is given replaces the other; to give both is an error."""
    assert merge_patch.repeated(SPEC, {"argv": ["y"]}).argv == ("y",)
    assert merge_patch.repeated(JobSpec(argv=("y",)), {"command": "x"}) == JobSpec(command="x")
    with pytest.raises(InvalidJob):
        merge_patch.repeated(SPEC, {"argv": ["y"], "command": "x"})
