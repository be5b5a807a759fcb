"""JSON Schemas of requests and responses, from the very types that make and check them.

Generators of clients make a type of each component, so what several documents share is one (`State`, `Problem`), and
no name needs quotes. Used by the other modules of this package. Must not know any route.
"""

import json
from typing import Any, Final

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from shellrunner.config import Settings
from shellrunner.model import AgainRequest, JobBatch, JobPatch, JobSpec, Limits
from shellrunner.web.http.problems import STATUSES
from shellrunner.web.openapi import descriptions
from shellrunner.wire import documents, stream_events

Schema = dict[str, Any]

# Exactly one is given, and null is as good as absent. With `oneOf`, generators would make two types of a job.
_EITHER_COMMAND_OR_ARGV: Final[Schema] = {
    "if": {"required": ["command"], "properties": {"command": {"not": {"type": "null"}}}},
    "then": {"properties": {"argv": {"type": "null"}}},
    "else": {"required": ["argv"], "properties": {"argv": {"not": {"type": "null"}}}},
}


class _SchemaGenerator(GenerateJsonSchema):
    """Leaves out titles of keys, which only repeat their names, and nulls as defaults; adds the formats of numbers.

    To generators a default is a value of the type, which null is not where it only stands for an absent key.
    """

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def default_schema(self, schema: Any) -> JsonSchemaValue:
        made = super().default_schema(schema)
        if "default" in made and made["default"] is None:
            del made["default"]
        return made

    def int_schema(self, schema: Any) -> JsonSchemaValue:
        return {**super().int_schema(schema), "format": "int64"}

    def float_schema(self, schema: Any) -> JsonSchemaValue:
        return {**super().float_schema(schema), "format": "double"}


def document(name: str) -> dict[str, Schema]:
    """Return the schemas of one of the API's documents and its parts, by component name.

    Raises:
        AttributeError: there is no such document.
    """
    cls = getattr(documents, name, None) or getattr(stream_events, name)
    return _components(cls, name, name, "{model}", "serialization")


def body(cls: type, settings: Settings) -> dict[str, Schema]:
    """Return the schemas of a request body and its parts, by component name."""
    name = cls.__name__
    found = _components(cls, name, name, f"{name}{{model}}", "validation")
    for schema in found.values():
        _allow_null(schema)
    if cls is JobBatch:
        found[name]["properties"]["jobs"]["items"] = {"$ref": "#/components/schemas/JobSpec"}
    if issubclass(cls, JobSpec):
        _restrict_job(found, name, settings)
    if cls is JobSpec:
        found[name] |= _EITHER_COMMAND_OR_ARGV
    if cls in (JobPatch, AgainRequest):  # what is absent stays as it is
        for property_schema in found[name]["properties"].values():
            property_schema.pop("default", None)
    for schema in found.values():
        _describe_defaults(schema)
    if cls is AgainRequest:
        found[name]["not"] = {
            "required": ["command", "argv"],
            "properties": {key: {"not": {"type": "null"}} for key in ("command", "argv")},
        }
        _allow_removal(found[name]["properties"]["env"])
        _allow_removal(found[name]["properties"]["labels"])
    return found


def make_fields_optional(found: dict[str, Schema], name: str) -> None:
    """Describe that rows of this list may have some keys only, as the parameter `fields` selects them."""
    for property_schema in found[name]["properties"].values():
        if property_schema.get("type") == "array":
            row = property_schema["items"]["$ref"].rpartition("/")[2]
            description = f"{found[row]['description']} With `fields`, only the keys that it names."
            property_schema["items"] = {"$ref": f"#/components/schemas/Partial{row}"}
            optional = {key: value for key, value in found[row].items() if key != "required"}
            found[f"Partial{row}"] = optional | {"description": description}


def problem() -> dict[str, Schema]:
    """Return the schema of problems, with every type and its description."""
    found = document("Problem")
    types = "\n".join(
        f"- `/problems/{code}` ({status}): {descriptions.problem(code)}" for code, status in STATUSES.items()
    )
    found["Problem"]["properties"]["type"] = {
        "type": "string",
        "enum": [f"/problems/{code}" for code in STATUSES],
        "description": f"The kind of problem:\n\n{types}",
    }
    return found


def _components(cls: Any, root: str, name: str, inner: str, mode: Any) -> dict[str, Schema]:
    template = f"#/components/schemas/{inner}"
    schema = TypeAdapter(cls).json_schema(mode=mode, ref_template=template, schema_generator=_SchemaGenerator)
    parts = {inner.format(model=part): definition for part, definition in schema.pop("$defs", {}).items()}
    for each in (schema, *parts.values()):
        each.pop("title", None)  # generators would prefer it to the component's name, and it is not unique
    return {**parts, root: schema} if schema.get("$ref") is None else {**parts, root: parts[name]}


def _allow_null(schema: Schema) -> None:
    """Allow null for every optional key: the models treat null as absent."""
    required = schema.get("required", ())
    for key, property_schema in schema.get("properties", {}).items():
        if key not in required and {"type": "null"} not in property_schema.get("anyOf", ()):
            annotations = {
                word: property_schema.pop(word) for word in ("description", "default") if word in property_schema
            }
            schema["properties"][key] = {"anyOf": [property_schema, {"type": "null"}], **annotations}


def _describe_defaults(schema: Schema) -> None:
    """Move defaults to the descriptions: generators of TypeScript take a key that has one for a required one."""
    for property_schema in schema.get("properties", {}).values():
        default = property_schema.pop("default", None)
        if isinstance(default, str | int | float):
            default_text = f"default: `{json.dumps(default)}`"
            described = property_schema.get("description")
            property_schema["description"] = f"{described}; {default_text}" if described else default_text


def _allow_removal(schema: Schema) -> None:
    """Allow null for the members of an object, or of each alternative that is one: a merge patch removes those."""
    for alternative in schema.get("anyOf", [schema]):
        for word in ("additionalProperties", "patternProperties"):
            members = alternative.get(word)
            if isinstance(members, dict):
                found = members if word == "patternProperties" else alternative
                for key in found if word == "patternProperties" else (word,):
                    found[key] = {"anyOf": [found[key], {"type": "null"}]}


def _restrict_job(found: dict[str, Schema], name: str, settings: Settings) -> None:
    """Add what the model checks beyond types, and what the configuration of this service allows."""
    job, limits = found[name], found[f"{name}Limits"]["properties"]
    properties = job["properties"]
    if settings.profiles:
        properties["profile"]["anyOf"][0] = {"type": "string", "enum": list(settings.profiles)}
    else:
        properties["profile"] = {"type": "null", "description": "Not available: the configuration has no profiles."}
    properties["tty"]["anyOf"].insert(0, {"type": "boolean"})
    for limit in Limits.model_fields:
        maximum = getattr(settings.jobs, limit)
        if maximum is not None:
            limits[limit]["anyOf"][0]["maximum"] = maximum
    if not settings.callbacks.hosts:
        properties["notify"] = {
            "type": "null",
            "description": "Not available: `callbacks.hosts` is empty in the configuration.",
        }
        del found[f"{name}Notify"]
