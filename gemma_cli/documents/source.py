"""From a path to bytes, without ever waiting for ever and without more than memory holds."""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path

from gemma_cli.documents.document import clean_name
from gemma_cli.errors import UsageError

MOST_BYTES = 64 << 20  # one file; no context window holds a tenth of it

_CHUNK = 1 << 20
# What a shell puts in place of <(command), and standard input by its name.
_FROM_SHELL = re.compile(r"/dev/(?:stdin|fd/\d+)|/proc/self/fd/\d+")


def load(path: Path) -> tuple[bytes, tuple[str, ...]]:
    """All bytes of a file, and what must be said about it. Raises UsageError."""
    shown = clean_name(str(path))
    from_shell = is_from_shell(path)
    try:
        _check_kind(path.stat().st_mode, shown, from_shell=from_shell)
        descriptor = _open(path, may_wait=from_shell)
    except (OSError, ValueError) as error:
        raise unreadable(shown, error) from error
    try:
        before = os.fstat(descriptor)
        _check_kind(before.st_mode, shown, from_shell=from_shell)
        if from_shell and os.isatty(descriptor):
            raise UsageError(f"{shown} is a terminal: there is no file to read")
        raw = _read(descriptor, shown)
        after = os.fstat(descriptor)
    except OSError as error:
        raise unreadable(shown, error) from error
    finally:
        os.close(descriptor)
    same = (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    complete = len(raw) == before.st_size or not before.st_size  # /proc gives no sizes
    if stat.S_ISREG(before.st_mode) and not from_shell and not (same and complete):
        return raw, ("changed while it was read: this is what was read of it",)
    return raw, ()


def head(path: Path, count: int) -> bytes:
    """The first bytes of a regular file, without waiting for any. Raises OSError."""
    descriptor = _open(path, may_wait=False)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        return os.read(descriptor, count)
    finally:
        os.close(descriptor)


def is_from_shell(path: Path) -> bool:
    """Whether the path names an open stream of this process, as <(command) does."""
    return _FROM_SHELL.fullmatch(path.as_posix()) is not None


def unreadable(shown: str, error: OSError | ValueError) -> UsageError:
    """The error that says why a path cannot be read."""
    reason = error.strerror if isinstance(error, OSError) else None
    return UsageError(f"cannot read {shown}: {reason or error}")


def _open(path: Path, *, may_wait: bool) -> int:
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOCTTY", 0)
    if not may_wait:  # a pipe that took the file's place would wait for its writer
        flags |= getattr(os, "O_NONBLOCK", 0)
    return os.open(path, flags)


def _check_kind(mode: int, shown: str, *, from_shell: bool) -> None:
    if stat.S_ISDIR(mode):
        raise UsageError(f"cannot read {shown}: it is a directory")
    streams = (stat.S_ISFIFO, stat.S_ISSOCK, stat.S_ISCHR) if from_shell else ()
    if not any(kind(mode) for kind in (stat.S_ISREG, *streams)):
        raise UsageError(
            f"cannot read {shown}: it is a pipe or a device, not a file",
            "pipe it instead: gemma run PROMPT < FILE",
        )


def _read(descriptor: int, shown: str) -> bytes:
    chunks = []
    count = 0
    while chunk := os.read(descriptor, _CHUNK):
        chunks.append(chunk)
        count += len(chunk)
        if count > MOST_BYTES:
            raise UsageError(
                f"{shown} holds more than {MOST_BYTES >> 20} MiB: no context window takes that",
                "take a part of it: head -c 100000 FILE | gemma run PROMPT",
            )
    return b"".join(chunks)
