"""One file from the Hub into its cache: resumed, verified, in the standard layout.

blobs/HASH.part   grows from the front, so its length says how far it came
blobs/HASH        the same bytes after their hash was right
snapshots/COMMIT/FILE -> the blob
"""

from __future__ import annotations

import errno
import os
import queue
import shutil
import threading
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

from gemma_cli.errors import DownloadError, VerificationError
from gemma_cli.models.events import (
    Checking,
    Finished,
    Locked,
    Progress,
    Report,
    Started,
)
from gemma_cli.models.hashing import BLOCK, new_hasher
from gemma_cli.models.hub import open_content, refreshed
from gemma_cli.models.hubcache import cache_root, repo_folder
from gemma_cli.models.listing import RemoteFile
from gemma_cli.models.locks import file_lock
from gemma_cli.models.patience import Patience, TransientError
from gemma_cli.models.ranges import Tempo, several_ranges

_TRIES = 9
# A line that is away for a minute is no reason to stop.
_UNREACHABLE_S = 90.0
# What else may be written while a download runs.
_DISK_MARGIN = 64 << 20


def fetch(remote: RemoteFile, report: Report) -> Path:
    """The file's path in the cache, downloaded if it is not there whole.

    DownloadError when it cannot be had (what arrived stays for the next try);
    VerificationError when its bytes are wrong (they are removed).
    """
    folder = repo_folder(remote.repo)
    pointer = folder / "snapshots" / remote.commit / remote.file
    lock = cache_root() / ".locks" / folder.name / f"{remote.hash}.lock"
    fetched = False
    try:
        if not _is_whole(pointer, remote.size):
            with file_lock(lock, waiting=lambda: report(Locked(remote.file))):
                fetched = _ensure_blob(folder, pointer, remote, report)
        _write_ref(folder, remote)
    except OSError as error:
        raise cannot_write(error) from error
    report(Finished(remote.file, str(pointer), remote.size, fetched))
    return pointer


def missing_bytes(files: Sequence[RemoteFile]) -> int:
    """How much of these files still has to arrive."""
    total = 0
    for remote in files:
        folder = repo_folder(remote.repo)
        if _is_whole(folder / "snapshots" / remote.commit / remote.file, remote.size):
            continue
        blob = folder / "blobs" / remote.hash
        if not _is_whole(blob, remote.size):
            total += max(0, remote.size - _length(blob.with_suffix(".part")))
    return total


def free_space() -> int:
    """Bytes free on the disk of the Hub cache, which may not exist yet."""
    place = cache_root()
    while not place.exists() and place != place.parent:
        place = place.parent
    return shutil.disk_usage(place).free


def check_space(files: Sequence[RemoteFile]) -> None:
    """Refuse before the first byte what the disk cannot hold."""
    missing = missing_bytes(files)
    free = free_space()
    if missing and missing + _DISK_MARGIN > free:
        raise DownloadError(
            f"the disk is too full: {missing:,} bytes are to come, {free:,} are free"
            f" at {cache_root()}",
            "make room (gemma list, gemma rm NAME), or put the cache on another disk: HF_HOME",
        )


def cannot_write(error: OSError) -> DownloadError:
    place = cache_root()
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DownloadError(
            f"the disk became full while the model arrived ({place})",
            "make room, then type the same command again: it goes on where it stopped",
        )
    return DownloadError(
        f"cannot write to the Hub cache {place}: {error.strerror or error}",
        "use a folder that you may write to: HF_HOME=/path/to/folder",
    )


def _ensure_blob(folder: Path, pointer: Path, remote: RemoteFile, report: Report) -> bool:
    """Under the lock: make the blob and the link to it. Whether bytes were fetched."""
    blob = folder / "blobs" / remote.hash
    if _is_whole(pointer, remote.size):  # whoever held the lock has done it
        return False
    fetched = not _is_whole(blob, remote.size)
    if fetched:
        blob.parent.mkdir(parents=True, exist_ok=True)
        _receive(remote, blob, report)
    _link(blob, pointer, new=fetched)
    return fetched


def _receive(remote: RemoteFile, blob: Path, report: Report) -> None:
    part_path = blob.with_suffix(".part")
    with _Part(part_path, remote) as part:
        part.load(report)
        report(Started(remote.file, remote.size, part.length))
        _fill(part, remote, report)
        digest = part.finish()
    if digest != remote.hash:
        part_path.unlink(missing_ok=True)
        raise VerificationError(
            f"{remote.file} arrived damaged: its hash is {digest}, published is {remote.hash}",
            "it was removed; type the same command again to fetch it anew",
        )
    part_path.replace(blob)
    _sync_folder(blob.parent)


def _fill(part: _Part, remote: RemoteFile, report: Report) -> None:
    """Append until the file is complete, through whatever the line does."""
    patience = Patience(remote.file, report, _TRIES, _UNREACHABLE_S)
    tempo = Tempo()
    furthest = part.length
    while part.length < remote.size:
        try:
            with closing(_arriving(part, remote, tempo)) as lengths:
                for length in lengths:
                    report(Progress(remote.file, part.length, remote.size))
                    if part.length > furthest:
                        furthest = part.length
                        patience.progressed()
                    if tempo.should_change(length, remote.size - part.length):
                        break
        except TransientError as trouble:
            tempo.failed()
            if not patience.wait(trouble):
                raise _gave_up(part, remote, trouble) from trouble
            remote = _with_fresh_link(remote, trouble)


def _arriving(part: _Part, remote: RemoteFile, tempo: Tempo) -> Generator[int]:
    """Append what one connection, or several, deliver; yields the length of each block."""
    tempo.begin()
    if tempo.several:
        # Closed at once when the loop around it ends early, not when it is collected.
        with closing(several_ranges(remote, part.length, tempo)) as pieces:
            yield from map(part.append, pieces)
        return
    with open_content(remote, part.length) as (start, blocks):
        if start != part.length:
            part.restart()
        for block in blocks:
            yield part.append(block)
            if part.length == remote.size:
                return
    raise TransientError("the connection closed early")


def _with_fresh_link(remote: RemoteFile, trouble: TransientError) -> RemoteFile:
    if not trouble.fresh_link:
        return remote
    try:
        return refreshed(remote)
    except TransientError:
        return remote  # the next try fails like this one, and counts


def _gave_up(part: _Part, remote: RemoteFile, trouble: TransientError) -> DownloadError:
    return DownloadError(
        f"{remote.file}: stopped at {part.length:,} of {remote.size:,} bytes: {trouble.reason}",
        "what arrived is kept: the same command goes on from there",
    )


class _Part:
    """The growing file. Hashing runs beside receiving: both leave Python's lock."""

    def __init__(self, path: Path, remote: RemoteFile) -> None:
        self._path = path
        self._remote = remote
        self._file: BinaryIO = path.open("ab", buffering=0)
        self._hasher = _Hasher(remote)
        self.length = _length(path)

    def __enter__(self) -> _Part:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._hasher.stop()

    def load(self, report: Report) -> None:
        """Hash what a former run left; start anew if it cannot be a part of this file."""
        if self.length > self._remote.size:
            self.restart()
        done = 0
        with self._path.open("rb", buffering=0) as file:
            while done < self.length and (block := file.read(BLOCK)):
                self._hasher.update(block)
                done += len(block)
                report(Checking(self._remote.file, done, self.length))

    def append(self, block: bytes) -> int:
        """How much was taken: bytes beyond the file's published size are dropped."""
        block = block[: self._remote.size - self.length]
        view = memoryview(block)
        while view:
            view = view[self._file.write(view) :]
        self._hasher.update(block)
        self.length += len(block)
        return len(block)

    def restart(self) -> None:
        self._file.truncate(0)
        self._hasher.stop()
        self._hasher = _Hasher(self._remote)
        self.length = 0

    def finish(self) -> str:
        """The hash of everything, after everything is on the disk."""
        os.fsync(self._file.fileno())
        return self._hasher.result()


class _Hasher:
    """A hash that is fed by one thread and computed in another."""

    def __init__(self, remote: RemoteFile) -> None:
        self._hash = new_hasher(remote.hash, remote.size)
        self._blocks: queue.Queue[bytes | None] = queue.Queue(maxsize=32)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (block := self._blocks.get()) is not None:
            self._hash.update(block)

    def update(self, block: bytes) -> None:
        self._blocks.put(block)

    def stop(self) -> None:
        if self._thread.is_alive():
            self._blocks.put(None)
            self._thread.join()

    def result(self) -> str:
        self.stop()
        return self._hash.hexdigest()


def _link(blob: Path, pointer: Path, *, new: bool) -> None:
    """Point to the blob as the library does: a relative link, else the file itself."""
    pointer.parent.mkdir(parents=True, exist_ok=True)
    pointer.unlink(missing_ok=True)
    try:
        pointer.symlink_to(os.path.relpath(blob, pointer.parent))
    except OSError:  # Windows without the right to make links
        if new:
            blob.replace(pointer)
        else:
            shutil.copyfile(blob, pointer)


def _write_ref(folder: Path, remote: RemoteFile) -> None:
    """Note which commit a branch or tag meant."""
    if remote.revision == remote.commit:
        return
    ref = folder / "refs" / remote.revision
    try:
        if ref.read_text(encoding="utf-8") == remote.commit:
            return
    except OSError:
        pass
    ref.parent.mkdir(parents=True, exist_ok=True)
    temporary = ref.with_name(f"{ref.name}.{os.getpid()}.tmp")
    temporary.write_text(remote.commit, encoding="utf-8")
    temporary.replace(ref)


def _is_whole(path: Path, size: int) -> bool:
    return _length(path) == size and path.is_file()


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where the system lets a folder be opened."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
