"""From a path, a pattern or a folder to the files that are meant."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import translate
from pathlib import Path

from gemma_cli.documents.document import clean_name
from gemma_cli.documents.kinds import looks_readable
from gemma_cli.documents.source import head, is_from_shell, unreadable
from gemma_cli.errors import UsageError

MANY_FILES = 50  # more than this from one folder or pattern are hardly all meant
MANY_BYTES = 1 << 20
_MOST_FILES = 2_000
_MOST_VISITED = 50_000  # entries of folders; somebody named their whole disk

_JUNCTION = 0xA0000003  # IO_REPARSE_TAG_MOUNT_POINT
_HEAD = 8192  # bytes that tell text from binary
_WILD = re.compile(r"[*?]|\[[^\]]+\]")
_FOREIGN_FOLDERS = {
    *("node_modules", "bower_components", "__pycache__", "site-packages", "venv"),
    *("CVS", "_darcs"),
}


@dataclass(frozen=True, slots=True)
class Found:
    """Files in the order of their names. bytes: on disk, of all together.

    left_out: why -> how many, of what was in the folders and was not taken.
    needs_asking: more than MANY_FILES or MANY_BYTES, and not one file named as such.
    named: one file, named as such, not found in a folder or by a pattern.
    """

    paths: tuple[Path, ...]
    bytes: int
    left_out: Mapping[str, int]
    needs_asking: bool
    named: bool = False

    @property
    def note(self) -> str:
        """What was left out, in words; "" if nothing was."""
        parts = [f"{count} {why}" for why, count in sorted(self.left_out.items())]
        return f"left out: {', '.join(parts)}" if parts else ""


def gather(pattern: str | Path) -> Found:
    """The files that a path, a folder or a pattern (* ? [] **, ~) names.

    A name that exists is meant as it is, whatever characters it holds. Of folders all
    text and documents are taken; what is hidden, a version control's, a package's or
    binary is left out and counted. Raises UsageError: nothing found, or far too much.
    """
    shown = clean_name(str(pattern))
    search = _Search(shown)
    path = expanded(str(pattern))
    try:
        if not path.exists():
            if not is_pattern(str(pattern)):
                raise unreadable(shown, FileNotFoundError(2, os.strerror(2)))
            found = list(search.matches(path))
        elif path.is_dir():
            found = list(search.below(path))
        else:
            size = 0 if is_from_shell(path) else path.stat().st_size
            return Found((path,), size, {}, needs_asking=False, named=True)
    except (OSError, ValueError) as error:
        raise unreadable(shown, error) from error
    if not found:
        raise UsageError(_nothing(shown, search.left_out, is_folder=path.exists()))
    total = sum(size for _, size in found)
    asking = len(found) > MANY_FILES or total > MANY_BYTES
    return Found(tuple(each for each, _ in found), total, dict(search.left_out), asking)


def expanded(text: str) -> Path:
    """The path with ~ replaced; an unknown account's ~name stays as it is."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def is_pattern(text: str) -> bool:
    return _WILD.search(text) is not None


def has_match(pattern: str) -> bool:
    """Whether a pattern names any file or folder."""
    try:
        return any(True for _ in _Search(pattern).entries(expanded(pattern)))
    except (OSError, ValueError, UsageError):
        return False


class _Search:
    """One walk through folders, with a limit to it."""

    def __init__(self, shown: str) -> None:
        self.left_out: Counter[str] = Counter()
        self._shown = shown
        self._visited = self._taken = 0

    def matches(self, pattern: Path) -> Iterator[tuple[Path, int]]:
        """The files that match, and those below folders that match; each once."""
        seen = set()
        for entry in self.entries(pattern):
            inside = self.below(entry) if _is_folder(entry) else self._file(entry)
            for path, size in inside:
                if path not in seen:
                    seen.add(path)
                    yield path, size

    def entries(self, pattern: Path) -> Iterator[Path]:
        """What a pattern names, sorted; ** stands for any folders, links not followed."""
        start = Path(pattern.anchor) if pattern.anchor else Path()
        yield from self._expand(start, pattern.parts[1 if pattern.anchor else 0 :])

    def below(self, folder: Path) -> Iterator[tuple[Path, int]]:
        """The readable files of a folder and of all folders in it."""
        waiting = [folder]
        while waiting:
            path = waiting.pop()
            if _is_folder(path):
                waiting += reversed(list(self._inside(path)))
            else:
                yield from self._file(path)

    def _expand(self, place: Path, parts: tuple[str, ...]) -> Iterator[Path]:
        if not parts:
            yield place
            return
        part, rest = parts[0], parts[1:]
        if part == "**":
            for folder in self._folders(place) if rest else (place,):
                yield from self._expand(folder, rest)
        elif not is_pattern(part):
            if _exists(place / part):
                yield from self._expand(place / part, rest)
        elif _is_folder(place):
            fits = re.compile(translate(os.path.normcase(part))).match
            for entry in self._listed(place):
                hidden = entry.name.startswith(".") and not part.startswith(".")
                if not hidden and fits(os.path.normcase(entry.name)):
                    yield from self._expand(entry, rest)

    def _folders(self, place: Path) -> Iterator[Path]:
        """A folder and all those in it."""
        waiting = [place] if _is_folder(place) else []
        while waiting:
            folder = waiting.pop()
            yield folder
            waiting += reversed([path for path in self._inside(folder) if _is_folder(path)])

    def _inside(self, folder: Path) -> Iterator[Path]:
        """The entries that a person means who names a folder; the others are counted."""
        for path in self._listed(folder):
            if path.name.startswith("."):
                self.left_out["hidden"] += 1
            elif not _is_folder(path):
                yield path
            elif _is_link(path):
                self.left_out["link(s) to folders"] += 1
            elif path.name in _FOREIGN_FOLDERS or _exists(path / "pyvenv.cfg"):
                self.left_out["folder(s) of packages"] += 1
            else:
                yield path

    def _listed(self, folder: Path) -> list[Path]:
        names = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    self._count_visit()
                    names.append(entry.name)
        except OSError:
            self.left_out["unreadable"] += 1
        return [folder / name for name in sorted(names)]

    def _file(self, path: Path) -> Iterator[tuple[Path, int]]:
        try:
            if not path.is_file():
                self.left_out["link(s) to nothing, pipes or devices"] += 1
            elif not looks_readable(head(path, _HEAD), path.suffix):
                self.left_out["binary"] += 1
            else:
                size = path.stat().st_size
                self._count_file()
                yield path, size
        except OSError:
            self.left_out["unreadable"] += 1

    def _count_visit(self) -> None:
        self._visited += 1
        if self._visited > _MOST_VISITED:
            raise self._too_much(f"{_MOST_VISITED:,} entries")

    def _count_file(self) -> None:
        self._taken += 1
        if self._taken > _MOST_FILES:
            raise self._too_much(f"{_MOST_FILES:,} files")

    def _too_much(self, what: str) -> UsageError:
        return UsageError(
            f"{self._shown} is or names a directory of more than {what}: too many to read",
            f"name a part of it: {self._shown.rstrip('/')}/PART, or a pattern: '*.py'",
        )


def _is_folder(path: Path) -> bool:
    """As Path.is_dir, but False where the system does not let one look."""
    try:
        return path.is_dir()
    except OSError:
        return False


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def _is_link(path: Path) -> bool:
    """A symbolic link, or a junction as Windows has them."""
    try:
        return path.is_symlink() or getattr(path.lstat(), "st_reparse_tag", 0) == _JUNCTION
    except OSError:  # gone since it was listed
        return True


def _nothing(shown: str, left_out: Mapping[str, int], *, is_folder: bool) -> str:
    found = "holds no file that can be read" if is_folder else "names no file that can be read"
    parts = ", ".join(f"{count} {why}" for why, count in sorted(left_out.items()))
    return f"{shown} {found}" + (f" (left out: {parts})" if parts else "")
