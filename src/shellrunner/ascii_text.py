"""Text of protocols and settings: case and blanks of ASCII only.

Names of headers, hosts, schemes, charsets, signals and units are compared without regard to case, in ASCII (RFC
9110). Python's own methods know all of Unicode: in lower case the Kelvin sign is "k", in upper case the long s is
"S", and `strip()` removes a no-break space, so that a name which one parser refuses would be another for the next.
Pure functions.
"""

from typing import Final

_LOWER: Final = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}
_UPPER: Final = {lower: upper for upper, lower in _LOWER.items()}
BLANKS: Final = " \t"  # OWS in RFC 9110, 5.6.3
_MAX_DIGITS: Final = 4300  # sys.int_info.default_max_str_digits


def lower(text: str) -> str:
    """Return the text with A to Z in lower case, and all other characters as they are."""
    return text.lower() if text.isascii() else text.translate(_LOWER)


def upper(text: str) -> str:
    """Return the text with a to z in upper case, and all other characters as they are."""
    return text.upper() if text.isascii() else text.translate(_UPPER)


def strip_blanks(text: str) -> str:
    """Return the text without blanks and tabs at its ends; other spaces are characters like any other."""
    return text.strip(BLANKS)


def is_decimal(text: str) -> bool:
    """Return whether the text is digits, 0 to 9, and no more than `int` takes, which should be given only that."""
    return text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS
