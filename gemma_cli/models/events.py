"""What a download tells whoever watches it: small values, no display."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Started:
    """The first byte is about to be asked for. resumed: bytes that are here from before."""

    file: str
    total: int
    resumed: int


@dataclass(frozen=True, slots=True)
class Checking:
    """Bytes from before are hashed again: `done` of `total`, the bytes that are here."""

    file: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Progress:
    file: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """A failure that may pass; the next try comes in `seconds`."""

    file: str
    reason: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Locked:
    """Another process downloads the same file; this one waits for it."""

    file: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The file is here, whole and verified. fetched: False if it was here before."""

    file: str
    path: str
    bytes: int
    fetched: bool


Event = Started | Checking | Progress | Waiting | Locked | Finished
Report = Callable[[Event], None]
