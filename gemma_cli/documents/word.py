"""The text of a Word document (.docx) as Markdown, by mammoth and markdownify."""

from __future__ import annotations

import io
import zipfile
from typing import Any

from gemma_cli.documents.extra import missing, one_line
from gemma_cli.documents.webpage import html_text
from gemma_cli.errors import UsageError

_MOST_XML = 64 << 20  # bytes, unpacked: a few kilobytes can be made to unfold into gigabytes
_CHUNK = 1 << 16


def docx_text(raw: bytes, shown: str) -> tuple[str, tuple[str, ...]]:
    """The text with its headings, lists and tables, and what must be said. Raises UsageError."""
    try:
        import mammoth
        import markdownify  # noqa: F401 - html_text needs it; here its absence is told
    except ImportError as error:
        raise missing(shown, "a Word document", "mammoth' 'markdownify") from error
    pictures = 0

    def leave_out(_: object) -> list[Any]:
        nonlocal pictures
        pictures += 1
        return []

    parts = io.BytesIO(_xml_parts(raw, shown))
    try:
        html = mammoth.convert_to_html(
            parts, convert_image=leave_out, include_embedded_style_map=False
        ).value
    except Exception as error:  # whatever a parser makes of bytes that anybody made
        raise UsageError(f"{shown} is a damaged Word document") from error
    text = html_text(html)
    if not text.strip():
        raise UsageError(f"{shown} holds no text" + (", only pictures" if pictures else ""))
    if not pictures:
        return text, ()
    what = "a picture: it was" if pictures == 1 else f"{pictures} pictures: they were"
    return text, (f"holds {what} left out",)


def _xml_parts(raw: bytes, shown: str) -> bytes:
    """The archive again with its XML alone, not compressed: what it unfolds to has an end.

    Sizes that an archive states are not trusted: each part is unpacked in small steps.
    """
    left = _MOST_XML
    kept = io.BytesIO()
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive, zipfile.ZipFile(kept, "w") as copy:
            for name in sorted(set(archive.namelist())):
                if name.endswith((".xml", ".rels")):
                    part = _part(archive, name, left, shown)
                    left -= len(part)
                    copy.writestr(name, part)
    except UsageError:
        raise
    except Exception as error:  # damaged archives make zipfile raise nearly anything
        raise UsageError(f"{shown} is a damaged Word document: {one_line(error)}") from error
    return kept.getvalue()


def _part(archive: zipfile.ZipFile, name: str, most: int, shown: str) -> bytes:
    chunks = []
    with archive.open(name) as part:
        while chunk := part.read(_CHUNK):
            chunks.append(chunk)
            most -= len(chunk)
            if most < 0:
                raise UsageError(
                    f"{shown} unfolds to more than {_MOST_XML >> 20} MiB of XML: it is not read"
                )
    content = b"".join(chunks)
    if any("<!DOCTYPE".encode(encoding) in content for encoding in ("utf-8", "utf-16-le")):
        raise UsageError(f"{shown} is no Word document: its XML declares types of its own")
    return content
