"""The sampler chain: logits of one position to the next token."""

from __future__ import annotations

import ctypes
import secrets
from typing import Any

import numpy as np

from gemma_cli.engine.library import C
from gemma_cli.engine.protocol import Sampling

PENALTY_WINDOW = 64  # tokens that repeat_penalty looks back on; llama.cpp's default


class Sampler:
    """One persistent llama.cpp sampler chain for one answer.

    Order: top-k first, because everything after it then works on a few dozen
    candidates and not on the whole vocabulary; penalties, top-p, min-p,
    temperature, draw. Greedy decoding without penalties is a plain argmax.
    """

    def __init__(self, sampling: Sampling, n_vocab: int) -> None:
        self.seed = secrets.randbits(32) if sampling.seed is None else sampling.seed
        self._n_vocab = n_vocab
        self._chain: Any = None
        if sampling.temperature == 0 and sampling.repeat_penalty == 1:
            return
        self._chain = C.llama_sampler_chain_init(C.llama_sampler_chain_default_params())
        for stage in self._stages(sampling):
            C.llama_sampler_chain_add(self._chain, stage)

    def _stages(self, sampling: Sampling) -> list[Any]:
        stages = []
        greedy = sampling.temperature == 0
        if sampling.top_k > 0 and not greedy:
            stages.append(C.llama_sampler_init_top_k(sampling.top_k))
        if sampling.repeat_penalty != 1:
            stages.append(
                C.llama_sampler_init_penalties(PENALTY_WINDOW, sampling.repeat_penalty, 0.0, 0.0)
            )
        if greedy:
            return [*stages, C.llama_sampler_init_greedy()]
        if sampling.top_p < 1:
            stages.append(C.llama_sampler_init_top_p(sampling.top_p, 1))
        if sampling.min_p > 0:
            stages.append(C.llama_sampler_init_min_p(sampling.min_p, 1))
        stages.append(C.llama_sampler_init_temp(sampling.temperature))
        return [*stages, C.llama_sampler_init_dist(self.seed)]

    def sample(self, context: Any) -> int:
        """The next token after the last output of a llama_context."""
        if self._chain is not None:
            token: int = C.llama_sampler_sample(self._chain, context, -1)
            return token
        pointer = C.llama_get_logits_ith(context, -1)
        address = ctypes.cast(pointer, ctypes.c_void_p).value or 0
        logits = np.frombuffer(
            (ctypes.c_float * self._n_vocab).from_address(address), dtype=np.float32
        )
        return int(logits.argmax())

    def close(self) -> None:
        if self._chain is not None:
            C.llama_sampler_free(self._chain)
            self._chain = None
