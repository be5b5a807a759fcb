"""Content negotiation: whether a client accepts the one content type that a route has (`Accept`).

Pure functions. Must not know requests or routes.
"""

from functools import lru_cache


@lru_cache(256)
def accepts(accept: str, offered: str) -> bool:
    """Return whether an `Accept` allows the offered type: the most specific range decides (RFC 9110, 12.5.1)."""
    kind = offered.partition("/")[0]
    weights: dict[str, float] = {}
    for item in accept.lower().split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        weights[name] = max(weights.get(name, 0.0), _weight(parameters))
    for media_range in (offered, f"{kind}/*", "*/*"):
        if media_range in weights:
            return weights[media_range] > 0
    return not accept.strip()


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return float(parameter[2:])
            except ValueError:
                return 1.0
    return 1.0
