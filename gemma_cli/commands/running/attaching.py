"""Files that are put before a prompt: any text, PDF, Word, HTML; folders within limits."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gemma_cli.errors import UsageError
from gemma_cli.terminal.notices import say

if TYPE_CHECKING:
    from gemma_cli.documents import Found

_STANDARD_INPUT = {"/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"}


def file_texts(files: Sequence[Path]) -> list[str]:
    """The text of each file as the prompt shows it; what must be said goes to stderr.

    One file is put as it is. Of several each bears its name, and all but plain prose
    stand in a code fence, as everything from a folder does. Raises UsageError.
    """
    from gemma_cli import documents

    if Path("-") in files and not Path("-").exists():
        raise UsageError(
            "-f takes a file or a folder, not -",
            "standard input is read by itself: gemma run PROMPT < FILE",
        )
    founds = [documents.gather(path) for path in files]
    for path, found in zip(files, founds, strict=True):
        _check_size(path, found)
    texts = []
    for path, found in zip(files, founds, strict=True):
        shown = documents.clean_name(str(path))
        with _told_if_slow(shown):
            read, said = documents.read_all(found.paths)
        for sentence in (f"{shown}: {found.note}" if found.note else "", *said):
            if sentence:
                say(sentence)
        if not found.named:
            texts += [document.rendered() for document in read]
        elif len(files) == 1:
            texts.append(read[0].text)
        else:
            label = documents.clean_name(path.name)
            prose = f"{label}:\n{read[0].text}"
            texts.append(replace(read[0], name=label).rendered() if read[0].language else prose)
    return texts


@contextmanager
def _told_if_slow(shown: str) -> Iterator[None]:
    """After 3 s of reading, a long PDF for one, it is said what takes so long."""
    said = threading.Timer(3, say, [f"reading {shown}"])
    said.daemon = True
    said.start()
    try:
        yield
    finally:
        said.cancel()


def takes_standard_input(files: Sequence[Path]) -> bool:
    """Whether one of the files is standard input by its name: it must not be read twice."""
    return any(path.as_posix() in _STANDARD_INPUT for path in files)


def _check_size(path: Path, found: Found) -> None:
    from gemma_cli.documents import MANY_BYTES, MANY_FILES
    from gemma_cli.terminal.tables import size

    if found.needs_asking:
        raise UsageError(
            f"{path} names {len(found.paths):,} files, {size(found.bytes)} together: "
            f"more than {MANY_FILES} files or {MANY_BYTES >> 20} MiB are not put into a prompt",
            "name a part of it, or the files one by one: -f FILE -f FILE",
        )
