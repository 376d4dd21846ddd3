"""May llama.cpp load this file? Asked once of every file that nobody vouches for.

A file is checked here, then in a child process (probe), whose crash is an
error and not ours. What passed is remembered by length, date and inode, so that
it costs a stat from then on.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from gemma_cli import __version__, paths

_MOST_RECORDS = 256


def admit(path: Path, stopped: Callable[[], bool]) -> None:
    """Return if the file (with the other parts of its split set) can be loaded.

    ModelFileError says why it cannot, Cancelled when stopped() became true.
    """
    parts = parts_of(path)
    state = _state(parts)
    record = paths.cache_dir() / "probed" / hashlib.sha256(os.fsencode(parts[0])).hexdigest()[:32]
    with contextlib.suppress(OSError, ValueError):
        if record.read_text(encoding="utf-8") == state:
            return
    if _is_published(path):
        return
    from gemma_cli.engine.probe import probe  # 15 ms of imports that a known file does not need

    _check_headers(path, parts)
    probe(path, stopped)
    with contextlib.suppress(OSError):
        _remember(record, state)


def parts_of(path: Path) -> list[Path]:
    """The files of a split set that are here, in order; of a single file, itself."""
    from gemma_cli.models.hubcache import split_parts

    path = path.absolute()
    parts = [path.with_name(name) for name in split_parts(path.name)]
    return [part for part in parts if part == path or part.is_file()]


def _state(parts: list[Path]) -> str:
    """What makes a passed probe void when it changes; another llama.cpp does too."""
    facts = [__version__, os.environ.get("LLAMA_CPP_LIB_PATH", "")]
    for part in parts:
        with contextlib.suppress(OSError, ValueError):
            stat = part.stat()
            facts.append(f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ino}")
    return "\n".join(facts)


def _remember(record: Path, state: str) -> None:
    folder = paths.private_dir(record.parent)
    record.write_text(state, encoding="utf-8")
    oldest_first = sorted(folder.iterdir(), key=lambda file: file.stat().st_mtime)
    for file in oldest_first[:-_MOST_RECORDS]:
        file.unlink(missing_ok=True)


def _is_published(path: Path) -> bool:
    """Whether these are bytes that the catalogue names: their hash was checked on arrival."""
    from gemma_cli.models import demo
    from gemma_cli.models.entries import load_catalog

    if path == demo.demo_path():
        return demo.assembled() is not None
    if not path.is_symlink():
        return False
    blob = path.resolve().name
    return any(file.sha256 == blob for model in load_catalog().models for file in model.files)


def _check_headers(path: Path, parts: list[Path]) -> None:
    from gemma_cli.models.gguf import read_header
    from gemma_cli.models.headers import known_header
    from gemma_cli.models.inspect import check_language_model

    check_language_model(path, known_header(path))
    for part in parts[1:]:
        read_header(part)
