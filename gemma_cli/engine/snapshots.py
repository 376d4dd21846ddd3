"""KV states on disk: a conversation or a document need not be evaluated again after a restart.

A container of our own. llama.cpp's checks on a state are not enough (weights
and tokens are not part of it, and its file reader aborts on a short file), so
a file is found by what the state depends on and used only if its digest holds.
Everything here can be made again: whatever is wrong with a file, it is ignored.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
import struct
import sys
import tempfile
import threading
import time
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from gemma_cli.engine.cache import Checkpoint, common_prefix
from gemma_cli.paths import private_dir

_MAGIC = b"GEMMAKV1"
_HEAD = struct.Struct("<8s32sII")  # magic, SHA-256 of all that follows, tokens, sections
_SECTION = struct.Struct("<QQ")  # tokens held, bytes
_SUFFIX = ".kv"
_ABANDONED_S = 3600
# A sequence is limited by its context window, which no Gemma has this large.
_MOST_TOKENS, _MOST_SECTIONS = 1 << 24, 64


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A context's tokens, the KV state of all of them, and checkpoints to go back to.

    state: a ctypes array of bytes (Context.state).
    """

    tokens: tuple[int, ...]
    state: Any
    checkpoints: tuple[Checkpoint, ...] = ()


@dataclass(frozen=True, slots=True)
class _Found:
    path: Path
    tokens: array[int]
    sections: tuple[tuple[int, int], ...]
    written: int  # nanoseconds, as st_mtime_ns


class Snapshots:
    """Snapshots of one model as it is loaded here, in a folder shared by all models.

    identity: everything that a state depends on besides its tokens; states of
    another identity are never seen. limit: bytes of the whole folder.
    """

    def __init__(self, folder: Path, identity: Mapping[str, object], limit: int) -> None:
        text = json.dumps(identity, sort_keys=True, default=str)
        self._folder = folder
        self._prefix = hashlib.sha256(text.encode()).hexdigest()[:16]
        self._limit = limit
        self._early: tuple[Path, SimpleQueue[Snapshot | None]] | None = None

    def read_early(self) -> None:
        """Read the newest one in a thread: it will probably be asked for."""
        newest = max(self._all(), key=lambda found: found.written, default=None)
        if newest is None:
            return
        early = SimpleQueue[Snapshot | None]()
        self._early = newest.path, early

        def read(found: _Found = newest) -> None:
            early.put(_read(found))

        threading.Thread(target=read, daemon=True).start()

    def best(self, prompt: Sequence[int], least: int, n_ctx: int) -> Snapshot | None:
        """The one that saves most of the prompt's evaluation, and at least so many tokens.

        n_ctx: more tokens than these cannot be resumed.
        """
        best, saved = None, least - 1
        for found in self._all():
            count = _usable(found, prompt)
            if count > saved and len(found.tokens) <= n_ctx:
                best, saved = found, count
        early, self._early = self._early, None  # wanted now or not at all: it may be a gigabyte
        if best is None:
            return None
        being_read = early and early[0] == best.path
        snapshot = early[1].get() if early and being_read else _read(best)
        if snapshot is None:
            _discard(best.path)
            return None
        with suppress(OSError):
            os.utime(best.path)  # the least recently used leave first
        return snapshot

    @property
    def largest(self) -> int:
        """Bytes of the largest state that is kept: it may not fill the limit, nor the disk."""
        place = next(each for each in (self._folder, *self._folder.parents) if each.exists())
        return min(self._limit // 2, shutil.disk_usage(place).free // 4)

    def has(self, tokens: Sequence[int]) -> bool:
        return self._path(tokens).exists()

    def keep(self, snapshot: Snapshot, replaces: Sequence[int] = ()) -> None:
        """Write it, atomically and for its owner's eyes only. Raises OSError.

        replaces: tokens of a snapshot that this one continues; it is removed.
        """
        private_dir(self._folder)
        path = self._path(snapshot.tokens)
        handle, name = tempfile.mkstemp(dir=self._folder, prefix="new-", suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                _write(file, snapshot)
            Path(name).replace(path)
        except BaseException:
            with suppress(OSError):
                Path(name).unlink()
            raise
        if replaces and tuple(replaces) != snapshot.tokens:
            with suppress(OSError):
                self._path(replaces).unlink()
        trim(self._folder, self._limit)

    def _path(self, tokens: Sequence[int]) -> Path:
        return self._folder / f"{self._prefix}-{_name(array('i', tokens))}{_SUFFIX}"

    def _all(self) -> Iterator[_Found]:
        for path in self._folder.glob(f"{self._prefix}-*{_SUFFIX}"):
            found = _look(path)
            if found is not None:
                yield found
            else:  # in its place the same prompt is kept again
                _discard(path)


def trim(folder: Path, limit: int) -> None:
    """Remove the least recently used until the folder holds at most `limit` bytes.

    What a killed process left half-written goes after an hour.
    """
    files = []
    for left in folder.glob("new-*.tmp"):
        with suppress(OSError):
            if left.stat().st_mtime < time.time() - _ABANDONED_S:
                left.unlink()
    for path in (*folder.glob(f"*{_SUFFIX}"), *folder.glob("new-*.tmp")):
        with suppress(OSError):  # another process removed it
            status = path.stat()
            files.append((status.st_mtime_ns, status.st_size, path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= limit:
            return
        with suppress(OSError):
            path.unlink()
            total -= size


def _name(tokens: array[int]) -> str:
    return hashlib.sha256(tokens.tobytes()).hexdigest()[:16]


def _usable(found: _Found, prompt: Sequence[int]) -> int:
    """Tokens of the prompt that need no evaluation with this snapshot.

    Its state serves from its end, or one token before it; a checkpoint from its own.
    """
    shared = min(common_prefix(found.tokens, prompt), len(prompt) - 1)
    starts = (held for held, _ in found.sections if held <= shared + 1)
    return min(max(starts, default=0), shared)


def _look(path: Path) -> _Found | None:
    """A file's tokens and sections without its states; None if it is none of ours."""
    try:
        with path.open("rb") as file:
            magic, _, n_tokens, n_sections = _HEAD.unpack(file.read(_HEAD.size))
            if magic != _MAGIC or n_tokens > _MOST_TOKENS or not 0 < n_sections < _MOST_SECTIONS:
                return None
            table = file.read(_SECTION.size * n_sections)
            tokens = array("i")
            tokens.frombytes(file.read(tokens.itemsize * n_tokens))
            sections = tuple(_SECTION.iter_unpack(table))
            size = file.tell() + sum(size for _, size in sections)
            status = os.fstat(file.fileno())
            if sections[0][0] != n_tokens or max(held for held, _ in sections) > n_tokens:
                return None
            if len(tokens) != n_tokens or size != status.st_size:
                return None
            if not path.stem.endswith(_name(tokens)):
                return None
    except (OSError, ValueError, struct.error):
        return None
    return _Found(path, tokens, sections, status.st_mtime_ns)


def _read(found: _Found) -> Snapshot | None:
    """The whole file, if every byte is as it was written."""
    parts = []
    try:
        with found.path.open("rb") as file:
            _, digest, _, _ = head = _HEAD.unpack(file.read(_HEAD.size))
            rest = file.read(_SECTION.size * head[3] + found.tokens.itemsize * head[2])
            check = hashlib.sha256(rest)
            for _, size in found.sections:
                part = (ctypes.c_uint8 * size)()
                if file.readinto(part) != size:
                    return None
                check.update(part)
                parts.append(part)
    except (OSError, struct.error, MemoryError):
        return None
    if check.digest() != digest:
        return None
    checkpoints = (
        Checkpoint(held, part) for (held, _), part in zip(found.sections, parts, strict=True)
    )
    whole, *others = checkpoints
    return Snapshot(tuple(found.tokens), whole.window, tuple(others))


def _write(file: Any, snapshot: Snapshot) -> None:
    parts = [Checkpoint(len(snapshot.tokens), snapshot.state), *snapshot.checkpoints]
    table = b"".join(_SECTION.pack(part.n_past, part.size) for part in parts)
    rest = table + array("i", snapshot.tokens).tobytes()
    check = hashlib.sha256(rest)
    for part in parts:
        check.update(part.window)
    file.write(_HEAD.pack(_MAGIC, check.digest(), len(snapshot.tokens), len(parts)))
    file.write(rest)
    for part in parts:
        file.write(part.window)


def _discard(path: Path) -> None:
    if os.environ.get("GEMMA_DEBUG", "") not in ("", "0"):
        sys.stderr.write(
            f"gemma: KV snapshot {path.name} is damaged: it is removed and the prompt evaluated\n"
        )
    with suppress(OSError):
        path.unlink()
