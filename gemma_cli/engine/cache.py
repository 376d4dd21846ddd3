"""Which part of a context's KV cache can serve a new prompt. Pure."""

from __future__ import annotations

from collections.abc import Sequence


def common_prefix(cached: Sequence[int], prompt: Sequence[int]) -> int:
    """How many leading tokens two sequences share."""
    length = min(len(cached), len(prompt))
    for index in range(length):
        if cached[index] != prompt[index]:
            return index
    return length


def reusable(
    cached: Sequence[int], prompt: Sequence[int], pos_min: int, sliding_window: int
) -> int:
    """Tokens of the prompt that need no evaluation.

    The last prompt token is always evaluated: its logits are wanted. Under a
    sliding window, going back is lossless only while the window before the new
    end is still there; llama.cpp drops older cells and does not say so.
    pos_min: smallest position that all layers still hold (llama_memory_seq_pos_min).
    """
    shared = min(common_prefix(cached, prompt), len(prompt) - 1)
    if shared == len(cached) or not sliding_window:
        return shared
    return shared if pos_min <= max(0, shared - sliding_window + 1) else 0
