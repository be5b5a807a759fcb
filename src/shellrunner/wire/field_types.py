"""The types of the values in documents and events: formats, ranges, enumerations and examples.

Types only. Must not know which documents there are.
"""

from typing import Annotated

from pydantic import Field, WithJsonSchema, with_config
from typing_extensions import TypeAliasType

from shellrunner.model import Delivery, Ending, PendingReason, State, names
from shellrunner.model.endings import ENDINGS

TIME = "2016-08-19T15:31:42.201Z"

Instant = Annotated[
    str, Field(description="RFC 3339, in UTC.", json_schema_extra={"format": "date-time"}, examples=[TIME])
]
Link = Annotated[str, Field(json_schema_extra={"format": "uri-reference"})]
# An alias has a schema of its own under its name, which generators of clients make a type of.
StateName = TypeAliasType("StateName", Annotated[str, WithJsonSchema({"type": "string", "enum": [*State]})])
_ENDINGS = "; ".join(
    f"`{ending}`: {info.sentence}".format(exit_code="`exit_code`", signal="`signal`")
    + (" (reserved, not produced yet)" if info.reserved else "")
    for ending, info in ENDINGS.items()
)
EndingName = TypeAliasType(
    "EndingName", Annotated[str, WithJsonSchema({"type": "string", "enum": [*Ending], "description": _ENDINGS})]
)
DeliveryName = TypeAliasType("DeliveryName", Annotated[str, WithJsonSchema({"type": "string", "enum": [*Delivery]})])
PendingName = TypeAliasType(
    "PendingName", Annotated[str, WithJsonSchema({"type": "string", "enum": [*PendingReason]})]
)
Id = Annotated[int, Field(ge=1, le=names.MAX_JOB_ID, examples=[45])]
Count = Annotated[int, Field(ge=0, le=2**63 - 1)]
Pid = Annotated[int, Field(ge=1, le=2**22)]  # PID_MAX_LIMIT: the kernel has no larger ones
Small = Annotated[int, Field(ge=1, le=65_535)]
Seconds = Annotated[float, Field(ge=0)]
ExitCode = Annotated[
    int | None,
    Field(ge=0, le=names.MAX_EXIT_CODE, description="The exit code of the command; null unless it exited by itself."),
]
Signal = Annotated[
    str | None, Field(description="The signal that ended the command; null unless one did.", examples=["SIGSEGV"])
]

closed = with_config(extra="forbid", use_attribute_docstrings=True)
