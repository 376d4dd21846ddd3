"""The embedded model: Gemma 3 270M in four parts inside installed Python packages.

The parts are joined once into the cache folder, checked against the published
hash, and checked again by size and date afterwards.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path
from typing import BinaryIO

from gemma_cli import paths
from gemma_cli.errors import GemmaError, ModelFileError, ModelNotFoundError
from gemma_cli.models.entries import CatalogFile, CatalogModel, load_catalog
from gemma_cli.models.locks import file_lock

DEMO_ID = "gemma3:270m-pt"
_BLOCK = 1 << 20


def demo_entry() -> tuple[CatalogModel, CatalogFile]:
    model = load_catalog().get(DEMO_ID)
    assert model is not None, f"the catalogue lacks {DEMO_ID}"
    return model, model.files[0]


def demo_parts() -> tuple[Path, ...]:
    """The parts in order; none when the packages are not (all) installed."""
    package = demo_entry()[1].package
    if package is None or importlib.util.find_spec(package) is None:
        return ()
    parts: list[Path] = []
    # Looking a package up does not import it.
    while spec := importlib.util.find_spec(f"{package}_part{len(parts) + 1}"):
        found = sorted((Path(spec.origin or "").parent / "data").glob("*.gguf.part*"))
        if not found:
            return ()
        parts.append(found[0])
    return tuple(parts)


def demo_path() -> Path:
    """Where the joined file is, or will be."""
    return paths.cache_dir() / "models" / "gemma-3-270m-q4_k_m.gguf"


def assembled() -> Path | None:
    """The joined file if it is there and untouched since it was checked."""
    path = demo_path()
    try:
        facts = path.stat()
        return path if _stamp_path().read_text() == _stamp(facts) else None
    except (OSError, ValueError):
        return None


def assemble() -> Path:
    """The joined file, made (again) where it is missing, damaged or was changed."""
    path = assembled()
    if path is not None:
        return path
    parts = demo_parts()
    if not parts:
        raise not_installed()
    target = demo_path()
    try:
        with file_lock(target.with_suffix(".lock")):
            return assembled() or _join(parts, target)
    except OSError as error:
        raise _cannot_write(target, error) from error


def not_installed() -> ModelNotFoundError:
    return ModelNotFoundError(
        f"{DEMO_ID} is not installed", 'install it: pip install "gemma-cli[demo]"'
    )


def remove_assembled() -> int:
    """Delete the joined file; the bytes that became free."""
    target = demo_path()
    freed = target.stat().st_size if target.exists() else 0
    for path in (target, _stamp_path()):
        path.unlink(missing_ok=True)
    return freed


def _join(parts: tuple[Path, ...], target: Path) -> Path:
    wanted = demo_entry()[1].sha256
    needed = sum(part.stat().st_size for part in parts)
    free = shutil.disk_usage(target.parent).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"{needed:,} bytes are needed, {free:,} are free")
    for leftover in target.parent.glob(f"{target.name}.*.tmp"):
        leftover.unlink(missing_ok=True)  # of a run that was killed: we hold the lock
    descriptor, name = tempfile.mkstemp(prefix=f"{target.name}.", suffix=".tmp", dir=target.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as out:
            digest = _copy(parts, out)
            out.flush()
            os.fsync(out.fileno())
        if digest != wanted:
            raise ModelFileError(
                f"the installed package of {DEMO_ID} is damaged (wrong sha256)",
                'install it again: pip install --force-reinstall "gemma-cli[demo]"',
            )
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    _stamp_path().unlink(missing_ok=True)  # a hard link's other name keeps what it said
    _stamp_path().write_text(_stamp(target.stat()))
    return target


def _copy(parts: tuple[Path, ...], out: BinaryIO) -> str:
    digest = hashlib.sha256()
    for part in parts:
        with part.open("rb") as source:
            while block := source.read(_BLOCK):
                digest.update(block)
                out.write(block)
    return digest.hexdigest()


def _stamp_path() -> Path:
    return demo_path().with_suffix(".checked")


def _stamp(facts: os.stat_result) -> str:
    """What a file looked like when its hash was right; cheap to compare later."""
    return f"{facts.st_size} {facts.st_mtime_ns}"


def _cannot_write(target: Path, error: OSError) -> GemmaError:
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return GemmaError(
            f"the disk is too full for the embedded model: {reason}",
            f"make room at {target.parent}, or set GEMMA_HOME to another disk",
        )
    return GemmaError(
        f"cannot write the embedded model to {target.parent}: {reason}",
        "set GEMMA_HOME to a folder that you can write to",
    )
