"""A model's context window in llama.cpp: evaluate tokens, go back, save. One thread at a time."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

from gemma_cli.engine import headroom
from gemma_cli.engine.cache import Checkpoint
from gemma_cli.engine.library import AbortFlag, C
from gemma_cli.engine.model import Model, quiet_backend
from gemma_cli.errors import EngineError
from gemma_cli.machine.memory import OUTPUTS, KVType, Plan

_GGML_TYPE: dict[KVType, int] = {
    "f16": C.GGML_TYPE_F16,
    "q8_0": C.GGML_TYPE_Q8_0,
    "q4_0": C.GGML_TYPE_Q4_0,
}
_ABORTED, _NO_ROOM = 2, 1  # llama_decode's return values (llama.h)
_WHOLE, _WINDOW = C.LLAMA_STATE_SEQ_FLAGS_NONE, C.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY


def context_params(plan: Plan) -> Any:
    """llama_context_params by the plan; the planner's figures hold for these alone."""
    params = C.llama_context_default_params()
    params.n_ctx = plan.n_ctx
    params.n_batch = params.n_ubatch = min(plan.ubatch, plan.n_ctx)
    params.n_seq_max = 1
    # The default reserves n_batch rows of 262,144 logits.
    params.n_outputs_max = min(OUTPUTS, params.n_batch)
    params.swa_full = False  # the default keeps window layers at full length
    params.flash_attn_type = C.LLAMA_FLASH_ATTN_TYPE_AUTO
    params.type_k = params.type_v = _GGML_TYPE[plan.kv_type]
    params.n_threads = params.n_threads_batch = plan.threads
    params.no_perf = True
    return params


class Context:
    """A context window on a model: one sequence, evaluated in order.

    tokens: what its KV cache holds, by position.
    """

    def __init__(self, model: Model, plan: Plan, abort: AbortFlag) -> None:
        log = quiet_backend()
        params = context_params(plan)
        params.abort_callback = abort.callback
        params.abort_callback_data = abort.address
        self._abort = abort
        headroom.check_context(plan)
        self._pointer, reason = log.explained(
            lambda: C.llama_init_from_model(model.pointer, params)
        )
        if not self._pointer:
            if headroom.is_memory(reason):
                on_gpu = headroom.is_gpus(reason, plan.gpu_layers)
                raise headroom.no_context(plan, reason, on_gpu=on_gpu)
            raise EngineError(
                f"llama.cpp cannot make a context of {plan.n_ctx} tokens: {reason}",
                "try a smaller one: --ctx 4096",
            )
        model.adapters.activate(self._pointer)
        self.n_ctx = plan.n_ctx  # llama.cpp pads to 256; the promise is what was asked
        self.n_batch: int = C.llama_n_batch(self._pointer)
        self.n_outputs: int = params.n_outputs_max
        self._n_vocab = model.vocabulary.size
        self.tokens: list[int] = []
        self._threads = plan.threads
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

    def use_threads(self, threads: int) -> None:
        """Evaluate on so many threads from now on."""
        self._threads = threads
        C.llama_set_n_threads(self._pointer, threads, threads)

    def leave_a_core(self, leave: bool) -> None:
        """Evaluate on one thread less, so that whoever types is served at once."""
        threads = max(1, self._threads - 1) if leave else self._threads
        C.llama_set_n_threads(self._pointer, threads, threads)

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

    def evaluate(self, tokens: Sequence[int], *, logits: int = 1) -> bool:
        """Evaluate at most n_batch tokens after those held. False: aborted, nothing changed.

        logits: the last so many tokens get a row of logits, n_outputs at most.
        """
        batch, past, count = self._batch, len(self.tokens), len(tokens)
        batch.n_tokens = count
        # ctypes makes an object of every field that is read: once each is enough.
        ids, positions, wanted = batch.token, batch.pos, batch.logits
        for index, token in enumerate(tokens):
            ids[index] = token
            positions[index] = past + index
            wanted[index] = index >= count - logits
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

    def best(self, row: int) -> tuple[int, float]:
        """The token with the best logit of a row, and by how much it leads the second best."""
        from gemma_cli.engine import selection  # NumPy

        logits = selection.row(self._pointer, row, self._n_vocab)
        best = int(logits.argmax())
        others = logits[:best], logits[best + 1 :]
        second = max(part.max(initial=float("-inf")) for part in others)
        return best, float(logits[best] - second)

    def checkpoint(self) -> Checkpoint:
        """A copy of the window layers as they are now."""
        return Checkpoint(len(self.tokens), self._state(_WINDOW))

    def checkpoint_size(self) -> int:
        """Bytes that checkpoint() would take."""
        return self._state_size(_WINDOW)

    def restore(self, checkpoint: Checkpoint) -> bool:
        """Go back to a checkpoint of tokens that are still held; False: all is forgotten."""
        self.rewind(checkpoint.n_past)
        return self._set_state(checkpoint.window, _WINDOW)

    def state_size(self) -> int:
        """Bytes that state() would take."""
        return self._state_size(_WHOLE)

    def state(self) -> Any:
        """The KV cache of all layers, as a ctypes array of bytes."""
        return self._state(_WHOLE)

    def set_state(self, state: Any, tokens: Sequence[int]) -> bool:
        """Become the context that state() was taken of; False: all is forgotten."""
        self.rewind(0)
        self.tokens += tokens
        return self._set_state(state, _WHOLE)

    def _state_size(self, flags: int) -> int:
        size: int = C.llama_state_seq_get_size_ext(self._pointer, 0, flags)
        return size

    def _state(self, flags: int) -> Any:
        size = self._state_size(flags)
        state = (ctypes.c_uint8 * size)()
        C.llama_state_seq_get_data_ext(self._pointer, state, size, 0, flags)
        return state

    def _set_state(self, state: Any, flags: int) -> bool:
        size = len(state)
        taken: int = C.llama_state_seq_set_data_ext(self._pointer, state, size, 0, flags)
        last: int = C.llama_memory_seq_pos_max(self._memory, 0)
        if taken == size and last == len(self.tokens) - 1:
            return True
        self.rewind(0)
        return False

    def close(self) -> None:
        if self._pointer:
            C.llama_batch_free(self._batch)
            C.llama_free(self._pointer)
            self._pointer = None
