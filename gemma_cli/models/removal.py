"""Taking files out of the Hub cache: what only the given file uses, nothing else.

A blob may be held by several links: the same bytes under another name, or in a
snapshot that another branch or tag names. Those are somebody else's references.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gemma_cli.models.locks import is_locked


@dataclass(frozen=True, slots=True)
class Removal:
    """What removing a model's files means. links: files of snapshots that go.

    blobs: bytes that nothing else uses; freed: how many. kept: links of others
    to the same bytes, which stay unless they are removed too.
    """

    links: tuple[Path, ...]
    blobs: tuple[Path, ...]
    freed: int
    kept: tuple[Path, ...]


def plan_removal(paths: Iterable[Path], *, others_too: bool = False) -> Removal:
    """What goes when these files of snapshots go. others_too: all other references as well."""
    links: set[Path] = set()
    blobs: set[Path] = set()
    kept: set[Path] = set()
    for path in paths:
        target = path.resolve()
        same = [link for link in _links(path) if link.resolve() == target] or [path]
        ours = [link for link in same if others_too or _is_ours(link, path)]
        links.update(ours)
        kept.update(set(same) - set(ours))
        if len(ours) == len(same) and target not in (link.absolute() for link in same):
            blobs.add(target)
    return Removal(
        tuple(sorted(links)), tuple(sorted(blobs)), _freed(links, blobs), tuple(sorted(kept))
    )


def remove(removal: Removal) -> None:
    """Delete, links first: a crash between leaves bytes, never a link to nothing."""
    for path in (*removal.links, *removal.blobs):
        path.unlink(missing_ok=True)
    for folder in {_repo_of(link) for link in removal.links}:
        _tidy(folder)


def _repo_of(link: Path) -> Path:
    """models--OWNER--REPO of a file in one of its snapshots."""
    for parent in link.parents:
        if parent.parent.name == "snapshots":
            return parent.parent.parent
    raise ValueError(f"{link} is in no snapshot")


def _snapshot_of(link: Path) -> Path:
    return next(parent for parent in link.parents if parent.parent.name == "snapshots")


def _links(path: Path) -> list[Path]:
    """Every file of every snapshot of the repository."""
    return [link for link in (_repo_of(path) / "snapshots").rglob("*") if not link.is_dir()]


def _is_ours(link: Path, path: Path) -> bool:
    """The very file, or the same name in a snapshot that no branch or tag names any more."""
    snapshot = _snapshot_of(link)
    same_name = link.relative_to(snapshot) == path.relative_to(_snapshot_of(path))
    return link == path or (same_name and snapshot.name not in _named(_repo_of(path)))


def _named(folder: Path) -> set[str]:
    """The commits that the repository's branches and tags name here."""
    refs = (path for path in (folder / "refs").rglob("*") if path.is_file())
    return {ref.read_text(encoding="utf-8", errors="replace").strip() for ref in refs}


def _freed(links: set[Path], blobs: set[Path]) -> int:
    """Bytes that deleting gives back: hard links of other tools keep theirs."""
    copies = {link for link in links if not link.is_symlink()}
    total = 0
    for path in blobs | copies:
        try:
            facts = path.stat()
        except OSError:
            continue
        total += facts.st_size if facts.st_nlink == 1 else 0
    return total


def _tidy(folder: Path) -> None:
    """Drop parts of stopped downloads that nobody works on, and folders that became empty."""
    for part in (folder / "blobs").glob("*.part"):
        lock = folder.parent / ".locks" / folder.name / f"{part.stem}.lock"
        if not is_locked(lock):
            part.unlink(missing_ok=True)
    snapshots = folder / "snapshots"
    for place, _, _ in os.walk(snapshots, topdown=False):
        _drop_if_empty(Path(place))
    if not snapshots.exists():
        for ref in (folder / "refs").rglob("*"):
            if ref.is_file():
                ref.unlink()
        for place, _, _ in os.walk(folder, topdown=False):
            _drop_if_empty(Path(place))


def _drop_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        return
