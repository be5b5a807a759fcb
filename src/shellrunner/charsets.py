"""The charsets that output may have, and all names by which a client may request one.

Used by the model. Must not know anything but Python's codecs.
"""

from encodings.aliases import aliases
from typing import Final

from shellrunner import ascii_text

# Charsets whose decoder keeps no state but the bytes of an incomplete character, so that a stream can be resumed from
# a position and at most eight bytes before it (each was tested with thousands of random cuts), and that have a name
# registered with IANA, so that clients know them too. By Python's own names: a lookup would load every decoder.
_SINGLE_BYTE = (
    "ascii iso8859-1 koi8-r koi8-u kz1048 mac-roman ptcp154 tis-620 "
    "cp437 cp775 cp850 cp852 cp855 cp857 cp860 cp861 cp862 cp863 cp864 cp865 cp866 cp869 "
    "cp1250 cp1251 cp1252 cp1253 cp1254 cp1255 cp1256 cp1257 cp1258 "
    "iso8859-2 iso8859-3 iso8859-4 iso8859-5 iso8859-6 iso8859-7 iso8859-8 iso8859-9 iso8859-10 iso8859-11 "
    "iso8859-13 iso8859-14 iso8859-15 iso8859-16"
)
_MULTI_BYTE = "utf-8 utf-16-le utf-16-be gb18030 gbk gb2312 big5 big5hkscs shift_jis euc_jp euc_kr"
CHARSETS: Final = frozenset(f"{_SINGLE_BYTE} {_MULTI_BYTE}".split())
_MODULES = {name.replace("-", "_"): name for name in CHARSETS} | {"latin_1": "iso8859-1"}  # of `encodings`


def _normalize(name: str) -> str:
    return ascii_text.lower(name).replace("_", "-")


# All names that Python has for them. A client's text never reaches `codecs.lookup`, which caches every name for ever.
_NAMES = {_normalize(alias): _MODULES[codec] for alias, codec in aliases.items() if codec in _MODULES} | {
    _normalize(module): name for module, name in _MODULES.items()
}


def canonical(name: str) -> str:
    """Return Python's own name of a charset that output may have.

    Raises:
        ValueError: it is not one of them.
    """
    known = _NAMES.get(_normalize(name))
    if known is None:
        raise ValueError("must be a charset without shift states, such as utf-8, koi8-r, cp1251 or gb18030")
    return known
