"""Bytes to text: which encoding they are in, or that they are no text at all."""

from __future__ import annotations

import codecs
import re

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_LOSSY = f"is not all {{}}: what could not be read became {_REPLACEMENT}"

# UTF-32 before UTF-16: the mark of one begins like that of the other.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Text has none of these, but for the odd form feed, backspace or escape sequence in a log.
_CONTROLS = bytes(set(range(0x20)) - set(b"\t\n\v\f\r\b\x1b")) + b"\x7f"
_SAMPLE = 1 << 20  # bytes that an encoding is guessed from

# <meta charset=...>, <?xml encoding=...?>, # -*- coding: ... -*-
_DECLARED = re.compile(rb"""(?:charset|encoding|coding)\s*[:=]\s*["']?([\w.:-]{2,40})""")
_NO_ENCODING_OF_FILES = {
    *("idna", "mbcs", "oem", "punycode", "undefined"),
    *("raw_unicode_escape", "unicode_escape", "utf-7"),
}
# What texts of Western Europe hold beyond ASCII. Some of cp1252 is left out on purpose:
# the bytes that mean letters in Polish, Czech, Turkish, Japanese or DOS encodings.
_WESTERN = frozenset(
    "ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜßàáâãäåæçèéêëìíîïñòóôõöøùúûüÿŒœ€£§©®™°²´µ·ªº«»¡¿‘’“”„•–—…×\xa0"
)
# What files really are in. Among all encodings there are, a short text suits an odd one best.
_USUAL = [
    *("cp1250", "cp1251", "cp1252", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257"),
    *("koi8_r", "koi8_u", "cp850", "cp866", "cp874", "iso8859_2", "mac_roman", "mac_cyrillic"),
    *("cp932", "euc_jp", "gb18030", "big5", "cp949"),
]
_LETTERS = re.compile("[^\\W\\d_]")
_NOT_WESTERN = re.compile("[À-ÿŒœ]{3}|[^\\x00-\\x7f]{4}")


def decode(raw: bytes) -> tuple[str, tuple[str, ...]] | None:
    """The text and what must be said about it; None when the bytes are no text.

    Line ends become line feeds, NUL characters go (said).
    """
    found = _decode(raw)
    if found is None:
        return None
    text, notes = found
    if "\0" in text:
        text = text.replace("\0", "")
        notes = (*notes, "holds NUL bytes: they were left out")
    return text.replace("\r\n", "\n").replace("\r", "\n"), notes


def is_binary(start: bytes) -> bool:
    """Whether a file that begins so is no text. A character may be cut at the end."""
    if any(start.startswith(mark) for mark, _ in _MARKS):
        return False
    if _wide(start):
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        return _controls(start) > 1 + len(start) // 50
    return _too_many_nuls(start)


def _decode(raw: bytes) -> tuple[str, tuple[str, ...]] | None:
    for mark, encoding in _MARKS:
        if raw.startswith(mark):
            return _marked(raw[len(mark) :], encoding)
    if b"\x1b$B" in raw or b"\x1b$@" in raw:  # Japanese mail: seven bits, so UTF-8 as well
        text = _strictly(raw, "iso2022_jp")
        if text is not None:
            return text, ("is not UTF-8: read as iso2022_jp",)
    wide = _wide(raw)  # first: English in UTF-16 is UTF-8 as well, with NUL characters
    if wide:
        return raw.decode(wide, "replace"), (f"is not UTF-8: read as {wide}",)
    text = _strictly(raw, "utf-8")
    if text is not None:
        return None if _too_many_nuls(raw) else (text, ())
    if _controls(raw) > 1 + len(raw) // 50:
        return None
    return _legacy(raw)


def _marked(raw: bytes, encoding: str) -> tuple[str, tuple[str, ...]] | None:
    text = raw.decode(encoding, "replace")
    lost = text.count(_REPLACEMENT)
    if lost > 1 + len(text) // 10:
        return None  # it only began like a byte order mark
    return text, (_LOSSY.format(encoding.upper()),) if lost else ()


def _legacy(raw: bytes) -> tuple[str, tuple[str, ...]]:
    """Text that is neither UTF-8 nor UTF-16: declared, Western, or as the library judges."""
    replaced = raw.decode("utf-8", "replace")
    lossy = replaced, (_LOSSY.format("UTF-8"),)
    lost = replaced.count(_REPLACEMENT)
    if len(replaced) - len(replaced.encode("ascii", "ignore")) > 2 * lost:
        return lossy  # UTF-8 in which something broke
    for encoding in (_declared(raw), "cp1252" if _is_western(raw) else None, _judged(raw)):
        text = _strictly(raw, encoding) if encoding else None
        if text is not None:
            return text, (f"is not UTF-8: read as {encoding}",)
    return lossy


def _strictly(raw: bytes, encoding: str) -> str | None:
    try:
        return raw.decode(encoding)
    except (UnicodeError, LookupError):  # LookupError: a codec that is not of texts, as zlib
        return None


def _declared(raw: bytes) -> str | None:
    match = _DECLARED.search(raw[:1024])
    try:
        name = codecs.lookup(match[1].decode("ascii", "replace")).name if match else None
    except LookupError:
        return None
    if name in _NO_ENCODING_OF_FILES:
        return None
    # Whoever writes Latin-1 means what browsers take it for.
    return "cp1252" if name in ("iso8859-1", "ascii") else name


def _is_western(raw: bytes) -> bool:
    text = _strictly(raw[:_SAMPLE], "cp1252")
    if text is None or _NOT_WESTERN.search(text):
        return False
    beyond = {each for each in text if each > "\x7f"}
    return beyond <= _WESTERN and len(_LETTERS.findall(text)) > 0


def _judged(raw: bytes) -> str | None:
    """What charset-normalizer takes it for; the sample ends where a line does."""
    from charset_normalizer import from_bytes

    cut = raw.rfind(b"\n", 0, _SAMPLE) + 1 if len(raw) > _SAMPLE else 0
    best = from_bytes(raw[: cut or _SAMPLE], cp_isolation=_USUAL).best()
    return None if best is None else best.encoding


def _wide(raw: bytes) -> str | None:
    """UTF-16 without its mark: much of it is NUL in every other place and nowhere else."""
    if b"\0" not in raw:
        return None
    even, odd = raw[::2].count(0), raw[1::2].count(0)
    for encoding, high, low in (("utf-16-le", odd, even), ("utf-16-be", even, odd)):
        if high > len(raw) // 5 and low <= len(raw) // 200:
            whole = raw[: len(raw) & ~1]
            return encoding if _strictly(whole, encoding) is not None else None
    return None


def _controls(raw: bytes) -> int:
    return len(raw) - len(raw.translate(None, _CONTROLS))


def _too_many_nuls(raw: bytes) -> bool:
    """Lists with NUL for a separator are text; a disk image that begins empty is not."""
    return _controls(raw) > 1 + len(raw) * 3 // 10
