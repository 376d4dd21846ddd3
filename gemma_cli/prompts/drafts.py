"""A prompt while it is edited: a draft beside the others, taken over once it is right."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from gemma_cli.errors import GemmaError, UsageError
from gemma_cli.paths import private_dir
from gemma_cli.prompts.library import BUILT_IN, file_of, folder, load, source_of


class Draft:
    """name: of the prompt, checked. new: what a prompt begins with that is not there yet.

    is_old: it was left by an edit that did not end well, and goes on.
    """

    def __init__(self, name: str, new: str) -> None:
        self.name = name
        try:
            source: Path | None = file_of(name)
        except UsageError:
            source = None
        own = source if source is not None and source_of(source) != BUILT_IN else None
        self._target = (own or folder() / f"{name}.md").resolve()
        self.path = folder() / "drafts" / f"{name}{self._target.suffix.lower()}"
        self.is_old = self.path.exists()
        try:
            self._before = new.encode() if source is None else source.read_bytes()
            if not self.is_old:
                private_dir(self.path.parent)
                _write(self.path, self._before)
        except OSError as error:
            raise _failed(self.path if error.filename is None else error.filename, error) from error

    def take_over(self, check: Callable[[str], object] = load) -> Path | None:
        """Make it the prompt; the file, or None where nothing was changed.

        check: raises UsageError for a text that is no prompt. GemmaError where it
        cannot be written; the draft stays.
        """
        if self.drop_unchanged():
            return None
        check(str(self.path))
        temporary = self._target.with_name(f".{self._target.name}.{os.getpid()}.tmp")
        try:
            _write(temporary, self.path.read_bytes())
            temporary.replace(self._target)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise _failed(self._target, error) from error
        self._remove()
        return self._target

    def drop_unchanged(self) -> bool:
        """Remove it if it says what the prompt says already."""
        try:
            unchanged = self.path.read_bytes() == self._before
        except FileNotFoundError:
            return True
        except OSError as error:
            raise GemmaError(f"cannot read {self.path}: {error.strerror or error}") from error
        if unchanged:
            self._remove()
        return unchanged

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            self.path.unlink()
            self.path.parent.rmdir()


def _write(path: Path, raw: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(raw)


def _failed(path: object, error: OSError) -> GemmaError:
    return GemmaError(f"cannot write {path}: {error.strerror or error}")
