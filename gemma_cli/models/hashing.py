"""Hashes of files, of the two kinds that a Hub publishes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

BLOCK = 1 << 20


class Hasher(Protocol):
    """What hashlib's objects have in common."""

    def update(self, data: bytes, /) -> None: ...

    def hexdigest(self) -> str: ...


def new_hasher(published: str, size: int) -> Hasher:
    """The hash that `published` is one of: sha256 (64 digits), or git's sha1 (40) of a
    file outside LFS, which covers the file's size too."""
    if len(published) == 64:
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


def file_hash(paths: Sequence[Path], published: str, advance: Callable[[int], None]) -> str:
    """Hash files as if they were one, for comparing with `published`; `advance` hears of
    every block's length."""
    hasher = new_hasher(published, sum(path.stat().st_size for path in paths))
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while block := file.read(BLOCK):
                hasher.update(block)
                advance(len(block))
    return hasher.hexdigest()
