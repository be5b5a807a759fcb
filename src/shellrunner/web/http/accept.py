"""Whether a client takes the type of answer that there is (`Accept`)."""

from functools import lru_cache


@lru_cache(256)
def accepts(accept: str, offered: str) -> bool:
    """Whether an `Accept` leaves us the type that we have (RFC 9110, 12.5.1: the most specific range counts)."""
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
