"""What a Hub says about repositories and files, as values; nothing in it is trusted."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from gemma_cli.errors import DownloadError

COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file of a repository. size, sha256: None where the listing does not say."""

    name: str
    size: int | None
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Listing:
    repo: str
    commit: str
    gated: bool
    license: str
    files: tuple[ListedFile, ...]


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file at one commit. hash: 64 hexadecimal digits of sha256, or 40 of git's sha1.

    revision: as it was asked for (a branch, a tag, a commit). location: where
    the content is now; such links expire.
    """

    repo: str
    file: str
    revision: str
    commit: str
    hash: str
    size: int
    location: str


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request was about, for messages. revision None: the main branch."""

    repo: str
    file: str | None
    revision: str | None

    def __str__(self) -> str:
        return f"{self.repo}/{self.file}" if self.file else self.repo


def parse_listing(body: Any, repo: str) -> Listing:
    try:
        commit, siblings = str(body["sha"]), list(body["siblings"])
        card = body.get("cardData") or {}
        files = tuple(file for entry in siblings if (file := _listed(entry)))
        gated, terms = bool(body.get("gated")), str(card.get("license", ""))
    except (KeyError, TypeError, AttributeError) as error:
        raise DownloadError(
            f"the listing of {repo} is not one", "it may be no Hub: check HF_ENDPOINT"
        ) from error
    if not COMMIT.fullmatch(commit):
        raise DownloadError(f"the listing of {repo} names no commit")
    return Listing(repo, commit, gated, terms, files)


def _listed(entry: Any) -> ListedFile | None:
    """One file of a listing; None for a name that must not become a path here."""
    name = entry["rfilename"]
    if not isinstance(name, str) or not is_safe_name(name):
        return None
    lfs = entry.get("lfs") or {}
    size, sha256 = lfs.get("size", entry.get("size")), lfs.get("sha256")
    return ListedFile(
        name,
        size if isinstance(size, int) and size >= 0 else None,
        sha256 if isinstance(sha256, str) and re.fullmatch(r"[0-9a-f]{64}", sha256) else None,
    )


def is_safe_name(name: str) -> bool:
    """Whether a repository's file name is a plain relative path on every system."""
    parts = name.split("/")
    odd = not name.isprintable() or any(char in name for char in '\\:*?"<>|')
    return not odd and len(name) < 512 and all(p not in ("", ".", "..") for p in parts)
