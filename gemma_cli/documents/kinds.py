"""What the bytes of a file are, whatever its name says."""

from __future__ import annotations

import io
import re
from typing import Literal

from gemma_cli.documents.decoding import is_binary
from gemma_cli.documents.extra import one_line
from gemma_cli.errors import UsageError

Kind = Literal["text", "pdf", "docx"]

_AS_TEXT = "save it as text, PDF or .docx"
_READ = "what can be read: text, PDF, .docx, HTML"
_ZIP = b"PK\x03\x04"
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"

# How files begin that have no text to give; asked only of what is no text.
_BINARY = (
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", "a GIF picture"),
    (b"BM", "a bitmap picture"),
    (b"RIFF", "a picture, sound or film (RIFF)"),
    (b"II*\0", "a TIFF picture"),
    (b"MM\0*", "a TIFF picture"),
    (b"GGUF", "a model file (GGUF)"),
    (b"SQLite format 3", "an SQLite database"),
    (b"\x7fELF", "a program or library (ELF)"),
    (b"MZ", "a Windows program or library"),
    (b"\xcf\xfa\xed\xfe", "a macOS program or library"),
    (b"\xca\xfe\xba\xbe", "a macOS program or a Java class"),
    (b"\0asm", "a WebAssembly module"),
    (b"\x1f\x8b", "compressed with gzip"),
    (b"BZh", "compressed with bzip2"),
    (b"\xfd7zXZ", "compressed with xz"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd"),
    (b"7z\xbc\xaf", "a 7-Zip archive"),
    (b"Rar!", "a RAR archive"),
    (b"ID3", "a sound file (MP3)"),
    (b"OggS", "a sound file (Ogg)"),
    (b"fLaC", "a sound file (FLAC)"),
    (b"PAR1", "a table (Parquet)"),
    (b"\x93NUMPY", "an array (NumPy)"),
)
_PICTURES_TEXT = "its text can be taken by a program for text recognition (OCR)"
_DOCTYPE = re.compile(r"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html)\b", re.I)


def recognise(raw: bytes, shown: str) -> Kind:
    """How to read these bytes: the format, or text. Raises UsageError that names what it is."""
    if b"%PDF-" in raw[:1024] and (raw.startswith(b"%PDF-") or is_binary(raw[:65536])):
        return "pdf"
    if raw.startswith(b"{\\rtf"):
        raise UsageError(f"{shown} is in the Rich Text Format, which is not read", _AS_TEXT)
    if raw.startswith(_ZIP):
        return _zip_kind(raw, shown)
    if raw.startswith(_OLE):
        if "EncryptedPackage".encode("utf-16-le") in raw:
            raise UsageError(f"{shown} is protected by a password", "save it without one")
        raise UsageError(f"{shown} is an Office file of before 2007", "save it as .docx or PDF")
    return "text"


def no_text(raw: bytes, shown: str) -> UsageError:
    """The refusal of bytes that are no text; it says what they are, if they tell."""
    known = next((name for start, name in _BINARY if raw.startswith(start)), None)
    if known is None and raw[4:8] == b"ftyp":
        known = "a film or picture (MP4)"
    hint = (
        _PICTURES_TEXT
        if known and "picture" in known
        else "what can be read: text, PDF, .docx, HTML"
    )
    return UsageError(f"{shown} is {known or 'a binary file'}: it is not text", hint)


def looks_readable(start: bytes, suffix: str) -> bool:
    """Whether a file of a folder is worth reading, by its first bytes (8 KiB do)."""
    if start.startswith(b"%PDF-"):
        return True
    if start.startswith(_ZIP):
        return suffix.lower() == ".docx"
    return not start.startswith(b"{\\rtf") and not is_binary(start)


def is_html(text: str, suffix: str) -> bool:
    """By its name, or, where the name says nothing (<(curl ...)), by how it begins."""
    if suffix.lower() in (".html", ".htm", ".xhtml"):
        return True
    return not suffix and _DOCTYPE.match(text[:2048]) is not None


def _zip_kind(raw: bytes, shown: str) -> Kind:
    import zipfile  # 4 ms, which completion at a prompt need not wait for

    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            names = archive.namelist()
    except Exception as error:  # damaged archives make zipfile raise nearly anything
        raise UsageError(f"{shown} is a damaged .docx or ZIP file: {one_line(error)}") from error
    if "[Content_Types].xml" in names:
        if any(name.startswith("word/") for name in names):
            return "docx"
        if any(name.startswith("xl/") for name in names):
            raise UsageError(f"{shown} is an Excel workbook, which is not read", "save it as CSV")
        raise UsageError(f"{shown} is an Office file that is not read", _AS_TEXT)
    if "mimetype" in names:
        raise UsageError(f"{shown} is an OpenDocument or EPUB file, which is not read", _AS_TEXT)
    raise UsageError(f"{shown} is a ZIP archive: unpack it, and name the folder")
