"""Bytes from outside as text: what was typed, piped, or named as a file of plain text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gemma_cli.errors import UsageError
from gemma_cli.terminal.notices import say


def read_text_file(path: Path) -> str:
    """A file as text; invalid UTF-8 is replaced and said on stderr."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    return decode_text(raw, str(path))


def decode_text(raw: bytes, source: str) -> str:
    """Bytes from outside as text: UTF-8, what is not is replaced, NUL bytes go; both said."""
    notes = []
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("utf-8-sig", "replace")
        notes.append("is not all UTF-8: what could not be read became \ufffd")
    if "\0" in text:
        text = text.replace("\0", "")
        notes.append("holds NUL bytes: they were left out")
    if notes:
        from gemma_cli.terminal.sanitize import clean_line

        for note in notes:
            say(f"{clean_line(source)} {note}")
    return text


def argument_text(text: str, source: str) -> str:
    """What the command line said as text, as decode_text does: the shell passes bytes on."""
    return decode_text(text.encode("utf-8", "surrogatepass"), source)


def join_prompt(parts: Sequence[str]) -> str:
    """Texts in order with an empty line between; empty ones left out."""
    return "\n\n".join(part for part in parts if part)
