"""A model's context window in llama.cpp: evaluate tokens, rewind, free. One thread at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gemma_cli.engine import headroom
from gemma_cli.engine.library import AbortFlag, C
from gemma_cli.engine.model import Model, quiet_backend
from gemma_cli.errors import EngineError
from gemma_cli.machine.memory import KVType, Plan

_GGML_TYPE: dict[KVType, int] = {
    "f16": C.GGML_TYPE_F16,
    "q8_0": C.GGML_TYPE_Q8_0,
    "q4_0": C.GGML_TYPE_Q4_0,
}
_ABORTED, _NO_ROOM = 2, 1  # llama_decode's return values (llama.h)


class Context:
    """A context window on a model: one sequence, evaluated in order.

    tokens: what its KV cache holds, by position.
    """

    def __init__(self, model: Model, plan: Plan, abort: AbortFlag) -> None:
        log = quiet_backend()
        params = C.llama_context_default_params()
        params.n_ctx = plan.n_ctx
        params.n_batch = params.n_ubatch = min(plan.ubatch, plan.n_ctx)
        params.n_seq_max = 1
        params.n_outputs_max = 1  # the default reserves n_batch rows of 262,144 logits
        params.swa_full = False  # the default keeps window layers at full length
        params.flash_attn_type = C.LLAMA_FLASH_ATTN_TYPE_AUTO
        params.type_k = params.type_v = _GGML_TYPE[plan.kv_type]
        params.n_threads = params.n_threads_batch = plan.threads
        params.no_perf = True
        params.abort_callback = abort.callback
        params.abort_callback_data = abort.address
        self._abort = abort
        headroom.check_context(plan)
        self._pointer, reason = log.explained(
            lambda: C.llama_init_from_model(model.pointer, params)
        )
        if not self._pointer:
            if headroom.is_memory(reason):
                raise headroom.no_context(plan, reason)
            raise EngineError(
                f"llama.cpp cannot make a context of {plan.n_ctx} tokens: {reason}",
                "try a smaller one: --ctx 4096",
            )
        model.adapters.activate(self._pointer)
        self.n_ctx = plan.n_ctx  # llama.cpp pads to 256; the promise is what was asked
        self.n_batch: int = C.llama_n_batch(self._pointer)
        self.tokens: list[int] = []
        self._memory = C.llama_get_memory(self._pointer)
        self._batch = C.llama_batch_init(self.n_batch, 0, 1)
        for index in range(self.n_batch):
            self._batch.n_seq_id[index] = 1
            self._batch.seq_id[index][0] = 0

    @property
    def pointer(self) -> Any:
        return self._pointer

    def watch(self, abort: AbortFlag) -> None:
        """From now on this flag stops the evaluation."""
        self._abort = abort
        C.llama_set_abort_callback(self._pointer, abort.callback, abort.address)

    def pos_min(self) -> int:
        """Smallest position that every layer still holds; -1 when empty."""
        position: int = C.llama_memory_seq_pos_min(self._memory, 0)
        return position

    def rewind(self, n_past: int) -> None:
        """Forget everything from position n_past on."""
        if n_past == 0:
            C.llama_memory_clear(self._memory, False)
        elif n_past < len(self.tokens):
            C.llama_memory_seq_rm(self._memory, 0, n_past, -1)
        del self.tokens[n_past:]

    def prefill(self, tokens: Sequence[int]) -> bool:
        """Evaluate tokens after those held; logits of the last are ready. False: aborted.

        After an abort the context holds what was evaluated whole.
        """
        for start in range(0, len(tokens), self.n_batch):
            chunk = tokens[start : start + self.n_batch]
            if not self._evaluate(chunk, logits=start + len(chunk) == len(tokens)):
                return False
        return True

    def decode(self, token: int) -> bool:
        """Evaluate one more token. False: aborted."""
        return self._evaluate((token,), logits=True)

    def _evaluate(self, tokens: Sequence[int], *, logits: bool) -> bool:
        batch, past = self._batch, len(self.tokens)
        batch.n_tokens = len(tokens)
        for index, token in enumerate(tokens):
            batch.token[index] = token
            batch.pos[index] = past + index
            batch.logits[index] = 0
        batch.logits[len(tokens) - 1] = logits
        if self._abort.is_set():  # a GPU backend does not poll the flag: look between batches
            return False
        result: int = C.llama_decode(self._pointer, batch)
        if result == 0:
            self.tokens += tokens
            return True
        C.llama_memory_seq_rm(self._memory, 0, past, -1)
        if result == _ABORTED:
            return False
        if result == _NO_ROOM:
            raise EngineError(f"the context window of {self.n_ctx} tokens is full")
        raise EngineError(
            f"llama.cpp failed while evaluating (code {result})",
            "GEMMA_DEBUG=1 shows llama.cpp's log",
        )

    def close(self) -> None:
        if self._pointer:
            C.llama_batch_free(self._batch)
            C.llama_free(self._pointer)
            self._pointer = None
