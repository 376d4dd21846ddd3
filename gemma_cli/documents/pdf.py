"""The text of a PDF, by pypdf."""

from __future__ import annotations

import io
import logging
import warnings
from typing import TYPE_CHECKING

from gemma_cli.documents.extra import missing, one_line, tidy
from gemma_cli.errors import UsageError

if TYPE_CHECKING:
    from pypdf import PdfReader

_MOST_CHARACTERS = 16 << 20  # of text: a small file can be made to unfold into gigabytes


def pdf_text(raw: bytes, shown: str) -> tuple[str, tuple[str, ...]]:
    """The text of all pages, and what must be said about it. Raises UsageError."""
    try:
        import pypdf
    except ImportError as error:
        raise missing(shown, "a PDF", "pypdf[crypto]") from error
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it would tell of every small flaw
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            reader = pypdf.PdfReader(io.BytesIO(raw))
            locked = reader.is_encrypted and not reader.decrypt("")
            count = 0 if locked else len(reader.pages)
        except Exception as error:  # whatever a parser makes of bytes that anybody made
            raise UsageError(f"{shown} is a damaged PDF: {one_line(error)}") from error
        if locked:
            raise UsageError(
                f"{shown} is protected by a password",
                "save it without one: qpdf --password=PASSWORD --decrypt IN.pdf OUT.pdf",
            )
        pages, failed = _pages(reader, count)
    return _joined(pages, failed, count, shown)


def _pages(reader: PdfReader, count: int) -> tuple[list[str], int]:
    """The text of each page that was read, and how many of these failed."""
    pages: list[str] = []
    failed = characters = 0
    for number in range(count):
        try:
            text = tidy(reader.pages[number].extract_text())
        except Exception:  # one page's flaw; the others may be whole, and it is said
            text = ""
            failed += 1
        pages.append(text)
        characters += len(text)
        if characters > _MOST_CHARACTERS:
            break
    return pages, failed


def _joined(pages: list[str], failed: int, count: int, shown: str) -> tuple[str, tuple[str, ...]]:
    text = "\n\n".join(filter(None, pages))
    empty = pages.count("") - failed
    if not text.strip():
        if failed or not count:
            raise UsageError(f"{shown} is a damaged PDF: none of its {count} pages can be read")
        raise UsageError(
            f"{shown} holds no text on its {count} pages: they may be pictures of it (a scan)",
            "let a program for text recognition add it: ocrmypdf IN.pdf OUT.pdf",
        )
    notes = []
    if failed:
        notes.append(f"is damaged: {failed} of {count} pages could not be read")
    if empty:
        notes.append(f"holds no text on {empty} of {count} pages: they may be pictures")
    if len(pages) < count:
        notes.append(f"is very long: only the first {len(pages)} of {count} pages were taken")
    return text, tuple(notes)
