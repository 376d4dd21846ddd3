"""From a path to a Document: any text, PDF, Word, HTML."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from gemma_cli.documents.decoding import decode
from gemma_cli.documents.document import Document, clean_name, shown_name
from gemma_cli.documents.kinds import Kind, is_html, no_text, recognise
from gemma_cli.documents.languages import language_of
from gemma_cli.documents.source import load
from gemma_cli.documents.webpage import html_text
from gemma_cli.errors import UsageError


def read(path: Path) -> Document:
    """What a file says. Raises UsageError: unreadable, no text, damaged, protected, too large.

    A format is known by its content; the name only tells a programming language.
    """
    raw, notes = load(path)
    shown = clean_name(str(path))
    name = shown_name(path)
    kind = recognise(raw, shown)
    if kind != "text":
        text, more = _converted(kind, raw, shown)
        return Document(name, text, notes=notes + more, bytes=len(raw))
    decoded = decode(raw)
    if decoded is None:
        raise no_text(raw, shown)
    text, more = decoded
    notes += more
    language = language_of(path.name, text)
    if is_html(text, path.suffix):
        try:
            text = html_text(text)
        except ImportError:
            language = "html"
            notes += (
                "is HTML and was taken with its markup; without: pip install "
                "'gemma-cli[documents]' (with pipx: pipx inject gemma-cli markdownify)",
            )
    if not text.strip():
        notes += ("is empty",)
    return Document(name, text, language, notes, len(raw))


def read_all(paths: Iterable[Path]) -> tuple[list[Document], list[str]]:
    """Every file that can be read, and sentences to be said: notes, and what was left out.

    Raises the first file's UsageError where none can be read.
    """
    documents: list[Document] = []
    said: list[str] = []
    refusals: list[UsageError] = []
    for path in paths:
        try:
            document = read(path)
        except UsageError as error:
            refusals.append(error)
            said.append(f"{error.message}: left out")
        else:
            documents.append(document)
            said += [f"{document.name} {note}" for note in document.notes]
    if refusals and not documents:
        raise refusals[0]
    return documents, said


def _converted(kind: Kind, raw: bytes, shown: str) -> tuple[str, tuple[str, ...]]:
    if kind == "pdf":
        from gemma_cli.documents.pdf import pdf_text

        return pdf_text(raw, shown)
    from gemma_cli.documents.word import docx_text

    return docx_text(raw, shown)
