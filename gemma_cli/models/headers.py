"""Headers that were read before: reading a Gemma's takes 40 ms, remembering it takes one.

A remembered header counts while the file's length, date and inode are the
same. Losing the cache is a small matter; a broken entry is read anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from gemma_cli import paths
from gemma_cli.models.gguf import Header, Tensor, read_header

_MOST = 64


def known_header(path: Path) -> Header:
    """The file's header, from the cache or read and checked now. Errors as for read_header."""
    entry = _entry(path)
    state = _state(path)
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        remembered = json.loads(entry.read_text(encoding="utf-8"))
        if remembered["state"] == state:
            return _header(remembered["header"])
    header = read_header(path)
    with contextlib.suppress(OSError):
        _remember(entry, {"state": state, "header": asdict(header)})
    return header


def _entry(path: Path) -> Path:
    name = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:32]
    return paths.cache_dir() / "headers" / f"{name}.json"


def _state(path: Path) -> list[object]:
    """What makes a remembered header void when it changes; the form of Header too."""
    try:
        facts = path.stat()
    except (OSError, ValueError):
        return []
    form = [field.name for field in (*fields(Header), *fields(Tensor))]
    return [facts.st_size, facts.st_mtime_ns, facts.st_ino, *form]


def _header(data: dict[str, Any]) -> Header:
    """JSON knows lists only: the tuples of a Header are made again."""
    tensors = tuple(Tensor(**{**t, "shape": tuple(t["shape"])}) for t in data["tensors"])
    values: dict[str, Any] = {
        key: tuple(v) if isinstance(v, list) else v for key, v in data.items()
    }
    return Header(**(values | {"tensors": tensors}))


def _remember(entry: Path, data: dict[str, Any]) -> None:
    folder = paths.private_dir(entry.parent)
    temporary = entry.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(data), encoding="utf-8")
    temporary.replace(entry)
    oldest_first = sorted(folder.glob("*.json"), key=lambda file: file.stat().st_mtime)
    for file in oldest_first[:-_MOST]:
        file.unlink(missing_ok=True)
