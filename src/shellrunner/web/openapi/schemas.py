"""The JSON Schemas of what goes over the wire, from the very types that make and check it.

Used by the OpenAPI document. Must not know any route.
"""

from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from shellrunner.config import Settings
from shellrunner.model import JobSpec, Limits
from shellrunner.web.http.problems import STATUSES
from shellrunner.web.openapi import meanings
from shellrunner.wire import documents, stream_events

Schema = dict[str, Any]


class _Shapes(GenerateJsonSchema):
    """Without titles made from the names of keys, which say nothing more; numbers say how large they are."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def int_schema(self, schema: Any) -> JsonSchemaValue:
        return {**super().int_schema(schema), "format": "int64"}

    def float_schema(self, schema: Any) -> JsonSchemaValue:
        return {**super().float_schema(schema), "format": "double"}


def document(name: str) -> dict[str, Schema]:
    """A document of ours and what it is made of, by name.

    Raises:
        AttributeError: there is no such document.
    """
    return _named(
        getattr(documents, name, None) or getattr(stream_events, name), name, name, "{model}", "serialization"
    )


def body(kind: type, settings: Settings) -> dict[str, Schema]:
    """The body of a request and what it is made of, by name."""
    name = kind.__name__
    found = _named(kind, name, name, f"{name}.{{model}}", "validation")
    for schema in found.values():
        _let_null_be_absent(schema)
    if kind is JobSpec:
        _fit_job(found, settings)
    return found


def let_fields_choose(found: dict[str, Schema], name: str) -> None:
    """Let the rows of this list have some keys only."""
    for about in found[name]["properties"].values():
        if about.get("type") == "array":
            row = about["items"]["$ref"].rpartition("/")[2]
            words = f"{found[row]['description']} With `fields` only the keys that it names."
            about["items"] = {"$ref": f"#/components/schemas/{row}.Fields"}
            some = {key: value for key, value in found[row].items() if key != "required"}
            found[f"{row}.Fields"] = some | {"description": words}


def problem() -> dict[str, Schema]:
    """Problems, with all of their types and what each means."""
    found = document("Problem")
    kinds = "\n".join(f"- `/problems/{code}` ({status}): {meanings.of(code)}" for code, status in STATUSES.items())
    found["Problem"]["properties"]["type"] = {
        "type": "string",
        "enum": [f"/problems/{code}" for code in STATUSES],
        "description": f"which kind of problem it is:\n\n{kinds}",
    }
    return found


def _named(kind: Any, root: str, name: str, inner: str, mode: Any) -> dict[str, Schema]:
    template = f"#/components/schemas/{inner}"
    schema = TypeAdapter(kind).json_schema(mode=mode, ref_template=template, schema_generator=_Shapes)
    parts = {inner.format(model=part): about for part, about in schema.pop("$defs", {}).items()}
    schema.pop("title", None)
    return {**parts, root: schema} if schema.get("$ref") is None else {**parts, root: parts[name]}


def _let_null_be_absent(schema: Schema) -> None:
    """What may be absent may be null: the models take it so."""
    required = schema.get("required", ())
    for key, about in schema.get("properties", {}).items():
        if key not in required and {"type": "null"} not in about.get("anyOf", ()):
            words = {word: about.pop(word) for word in ("description", "default") if word in about}
            schema["properties"][key] = {"anyOf": [about, {"type": "null"}], **words}


def _fit_job(found: dict[str, Schema], settings: Settings) -> None:
    """What the model checks beyond types, and what this service's config allows."""
    job, limits = found["JobSpec"], found["JobSpec.Limits"]["properties"]
    keys = job["properties"]
    job["oneOf"] = [_only("command", than="argv"), _only("argv", than="command")]
    keys["queue"]["anyOf"][0] = {"type": "string", "enum": list(settings.queues)}
    keys["tty"]["anyOf"].insert(0, {"type": "boolean"})
    for name in Limits.model_fields:
        most = getattr(settings.jobs, name)
        if most is not None:
            limits[name]["anyOf"][0]["maximum"] = most
    if not settings.callbacks.hosts:
        keys["notify"] = {"type": "null", "description": "config names no hosts to which results may be sent"}
        del found["JobSpec.Notify"]


def _only(key: str, than: str) -> Schema:
    return {"required": [key], "properties": {key: {"not": {"type": "null"}}, than: {"type": "null"}}}
