"""The standard Hub cache on disk, read directly: importing huggingface_hub costs 120 ms.

models--OWNER--REPO/refs/main                    a commit
models--OWNER--REPO/snapshots/COMMIT/FILE        a link to ../../blobs/SHA256
models--OWNER--REPO/blobs/SHA256                 the bytes
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_SPLIT = re.compile(r"(?P<stem>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class CachedFile:
    """A file of a snapshot; of a split set, the first, with all its parts.

    file: its name inside the repository, with forward slashes. sha256: None
    where the cache does not say (no symlinks, or a small file).
    """

    repo: str
    file: str
    revision: str
    path: Path
    bytes: int
    sha256: str | None
    parts: tuple[Path, ...]


def cache_root() -> Path:
    """The Hub cache, by the environment variables that huggingface_hub reads."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(variable):
            return Path(os.path.expandvars(os.environ[variable])).expanduser()
    home = os.environ.get("HF_HOME")
    if not home:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        home = str(Path(base) / "huggingface")
    return Path(os.path.expandvars(home)).expanduser() / "hub"


def repo_folder(repo: str) -> Path:
    return cache_root() / f"models--{repo.replace('/', '--')}"


def split_parts(file: str) -> tuple[str, ...]:
    """All the names of a split set, in order; of a single file, itself."""
    match = _SPLIT.fullmatch(file)
    if match is None:
        return (file,)
    count = int(match["count"])
    return tuple(f"{match['stem']}-{i:05d}-of-{count:05d}.gguf" for i in range(1, count + 1))


def is_projector(file: str) -> bool:
    """Whether a GGUF is a vision part, which is no model by itself."""
    return "mmproj" in file.rsplit("/", 1)[-1].lower()


def cached_files() -> Iterator[CachedFile]:
    """Every whole GGUF model in the cache, each once per repository and name."""
    try:
        folders = sorted(cache_root().glob("models--*--*"))
    except OSError:
        return
    for folder in folders:
        yield from _repo_files(folder)


def _repo_files(folder: Path) -> Iterator[CachedFile]:
    repo = folder.name.removeprefix("models--").replace("--", "/", 1)
    main = read_ref(folder, "main")
    try:
        snapshots = [path for path in (folder / "snapshots").iterdir() if path.is_dir()]
    except OSError:
        return
    # The snapshot that the branch names comes first, then the newest.
    snapshots.sort(key=lambda path: (path.name != main, -path.stat().st_mtime))
    seen: set[str] = set()
    for snapshot in snapshots:
        for path in sorted(snapshot.rglob("*.[gG][gG][uU][fF]")):
            file = path.relative_to(snapshot).as_posix()
            found = None if file in seen else cached_file(repo, snapshot, file)
            if found is not None:
                seen.add(file)
                yield found


def find_file(repo: str, file: str) -> Path | None:
    """A file of a cached repository, any commit; None if it is not here whole."""
    for snapshot in sorted((repo_folder(repo) / "snapshots").glob("*")):
        if (snapshot / file).is_file():
            return snapshot / file
    return None


def read_ref(folder: Path, name: str) -> str | None:
    """The commit that a branch or tag of a cached repository names."""
    try:
        return (folder / "refs" / name).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None


def cached_file(repo: str, snapshot: Path, file: str) -> CachedFile | None:
    """One model file of a snapshot; None for a later part, a projector, an incomplete set."""
    names = split_parts(file)
    if names[0] != file or is_projector(file):
        return None
    parts = tuple(snapshot / name for name in names)
    try:
        total = sum(part.stat().st_size for part in parts)
    except OSError:  # a dangling link, or a part that is missing
        return None
    target = parts[0].resolve().name
    return CachedFile(
        repo=repo,
        file=file,
        revision=snapshot.name,
        path=parts[0],
        bytes=total,
        sha256=target if len(parts) == 1 and _SHA256.fullmatch(target) else None,
        parts=parts,
    )
