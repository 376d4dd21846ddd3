"""Which part of a context's KV cache can serve a new prompt, and what is kept to go back. Pure.

Full-attention layers keep every token, so going back only forgets. Window
layers drop what has left the window, and llama.cpp does not say so: a
checkpoint is a copy of them at one position, taken while they were whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

# Checkpoints nearer to each other than this are one: evaluating so few tokens
# again costs less than keeping both.
NEAR = 16
# In a long prefill one is taken every so many tokens.
SPACING = 2048


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The window layers after n_past tokens. window: llama.cpp's bytes, a ctypes array."""

    n_past: int
    window: Any

    @property
    def size(self) -> int:
        return len(self.window)


@dataclass(frozen=True, slots=True)
class Reuse:
    """n_past tokens need no evaluation, after restoring the checkpoint if there is one."""

    n_past: int
    checkpoint: Checkpoint | None = None


class Checkpoints:
    """Checkpoints of one context in the order of their positions, within a budget of bytes."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._kept: list[Checkpoint] = []

    def __iter__(self) -> Iterator[Checkpoint]:
        return iter(self._kept)

    @property
    def budget(self) -> int:
        return self._budget

    def is_near(self, n_past: int) -> bool:
        """Is there one at this position or just before it?"""
        return any(0 <= n_past - kept.n_past < NEAR for kept in self._kept)

    def add(self, checkpoint: Checkpoint) -> None:
        """Keep it, the newest of all; older ones leave where they are densest.

        Gaps may grow with the distance from the end, because people go back a
        turn or two more often than twenty.
        """
        if checkpoint.size > self._budget:
            return
        self._kept = [kept for kept in self._kept if kept.n_past < checkpoint.n_past]
        self._kept.append(checkpoint)
        while sum(kept.size for kept in self._kept) > self._budget:
            del self._kept[self._densest()]

    def _densest(self) -> int:
        """Index of the checkpoint that leaves the smallest gap for its distance from the end."""
        if len(self._kept) == 2:
            return 0
        end = self._kept[-1].n_past + 1
        positions = [0, *(kept.n_past for kept in self._kept)]
        return min(
            range(len(self._kept) - 1),
            key=lambda i: (positions[i + 2] - positions[i]) / (end - positions[i + 1]),
        )

    def forget(self, n_past: int) -> None:
        """The tokens from position n_past on have changed."""
        self._kept = [kept for kept in self._kept if kept.n_past <= n_past]

    def replace(self, checkpoints: Iterable[Checkpoint]) -> None:
        self._kept = []
        for checkpoint in checkpoints:
            self.add(checkpoint)


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """How many leading tokens two sequences share."""
    a, b = list(left), list(right)
    low, high = 0, min(len(a), len(b))
    while low < high:  # halves are compared at C's speed
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def is_lossless(n_past: int, pos_min: int, sliding_window: int) -> bool:
    """May evaluation go on from position n_past when window layers hold pos_min and later?

    Token n_past sees the sliding_window - 1 positions before it (llama_kv_cache
    masks positions that are sliding_window or more behind).
    """
    return not sliding_window or pos_min <= max(0, n_past - sliding_window + 1)


def reusable(
    cached: Sequence[int],
    prompt: Sequence[int],
    pos_min: int,
    sliding_window: int,
    checkpoints: Iterable[Checkpoint] = (),
) -> Reuse:
    """How much of the prompt needs no evaluation, and what to restore for it.

    The last prompt token is always evaluated: its logits are wanted.
    pos_min: smallest position that all layers still hold (llama_memory_seq_pos_min).
    """
    shared = min(common_prefix(cached, prompt), len(prompt) - 1)
    if shared == len(cached) or is_lossless(shared, pos_min, sliding_window):
        return Reuse(shared)
    # A checkpoint holds a whole window, so one position less is in it too.
    fitting = [point for point in checkpoints if point.n_past <= shared + 1]
    if not fitting:
        return Reuse(0)
    best = max(fitting, key=lambda point: point.n_past)
    return Reuse(min(best.n_past, shared), best)
