"""A real llama.cpp context whose logits a test writes, and what a fair draw looks like."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gemma_cli.engine.library import C
from gemma_cli.engine.model import Model
from gemma_cli.engine.selection import row

Floats = npt.NDArray[np.float64]
Logits = npt.NDArray[np.float32]


class WrittenLogits:
    """One output of a context; set() decides what the next token is drawn from."""

    def __init__(self, path: Path) -> None:
        self.model = Model(path, 0)
        self.vocabulary = self.model.vocabulary
        params = C.llama_context_default_params()
        params.n_ctx, params.n_threads, params.n_threads_batch = 64, 1, 1
        self.context = C.llama_init_from_model(self.model.pointer, params)
        token = (C.llama_token * 1)(self.vocabulary.bos)
        assert C.llama_decode(self.context, C.llama_batch_get_one(token, 1)) == 0

    def set(self, logits: Logits) -> Any:
        """The context to sample from."""
        row(self.context, -1, self.vocabulary.size)[:] = logits
        return self.context

    def close(self) -> None:
        C.llama_free(self.context)
        self.model.close()


def softmax(logits: npt.ArrayLike, temperature: float = 1.0) -> Floats:
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    weights = np.exp(scaled - scaled.max())
    return np.asarray(weights / weights.sum())


def nucleus(probabilities: Floats, top_p: float) -> Floats:
    """Top-p by its definition: the likeliest that sum to p, as likely as before to each other."""
    order = np.argsort(-probabilities, kind="stable")
    count = int(np.searchsorted(np.cumsum(probabilities[order]), top_p)) + 1
    kept = np.zeros_like(probabilities)
    kept[order[:count]] = probabilities[order[:count]]
    return np.asarray(kept / kept.sum())


def assert_fair(drawn: Counter[int], probabilities: Floats) -> None:
    """Pearson's chi-square, rare tokens counted together; no impossible token at all.

    Four standard deviations: one in some ten thousand fair samples fails, and
    seeds are fixed.
    """
    total = sum(drawn.values())
    assert all(probabilities[token] > 0 for token in drawn)
    expected = probabilities * total
    common = np.flatnonzero(expected >= 5)
    observed = np.array([drawn[int(token)] for token in common], dtype=np.float64)
    chi2 = float(((observed - expected[common]) ** 2 / expected[common]).sum())
    freedom = len(common) - 1
    if (rest := expected.sum() - expected[common].sum()) >= 5:
        chi2 += (total - observed.sum() - rest) ** 2 / rest
        freedom += 1
    assert freedom > 0
    assert chi2 < freedom + 4 * (2 * freedom) ** 0.5
