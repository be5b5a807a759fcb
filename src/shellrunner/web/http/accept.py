"""Content negotiation: whether a client accepts the one content type that a route has (`Accept`).

Pure functions. Must not know requests or routes.
"""

import re
from functools import lru_cache
from typing import Final

from shellrunner import ascii_text

_QVALUE: Final = re.compile(r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?")  # RFC 9110, 12.4.2; another one is ignored


@lru_cache(256)
def accepts(accept: str, offered: str) -> bool:
    """Return whether an `Accept` allows the offered type: the most specific range decides (RFC 9110, 12.5.1)."""
    kind = offered.partition("/")[0]
    weights: dict[str, float] = {}
    for item in ascii_text.lower(accept).split(","):
        name, *parameters = (ascii_text.strip_blanks(part) for part in item.split(";"))
        weights[name] = max(weights.get(name, 0.0), _weight(parameters))
    for media_range in (offered, f"{kind}/*", "*/*"):
        if media_range in weights:
            return weights[media_range] > 0
    return not ascii_text.strip_blanks(accept)


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            return float(parameter[2:]) if _QVALUE.fullmatch(parameter, 2) else 1.0
    return 1.0
