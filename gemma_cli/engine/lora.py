"""LoRA adapters in llama.cpp: loaded beside a model, active in a context."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

from gemma_cli.engine import headroom
from gemma_cli.engine.library import C, Log
from gemma_cli.errors import EngineError, UsageError
from gemma_cli.models.adapter import Adapter
from gemma_cli.models.ggml import file_name


class LoadedAdapters:
    """Adapters in memory, in their order. Freed with the model that they belong to."""

    def __init__(self, model: Any, adapters: Sequence[Adapter], log: Log, gpu_layers: int) -> None:
        """model: llama_model pointer, with so many layers on a GPU.

        UsageError for a file that llama.cpp does not take, NoMemoryError for want of memory.
        """
        self.adapters = tuple(adapters)
        self._pointers = [_loaded(model, adapter, log, gpu_layers) for adapter in adapters]

    def activate(self, context: Any) -> None:
        """Let them act on all that this llama_context evaluates from now on."""
        count = len(self._pointers)
        if count == 0:
            return
        pointers = (C.llama_adapter_lora_p_ctypes * count)(*self._pointers)
        scales = (ctypes.c_float * count)(*[adapter.scale for adapter in self.adapters])
        if C.llama_set_adapters_lora(context, pointers, count, scales) != 0:
            raise EngineError("llama.cpp cannot use these adapters together")


def _loaded(model: Any, adapter: Adapter, log: Log, gpu_layers: int) -> Any:
    path = adapter.path
    pointer, reason = log.explained(lambda: C.llama_adapter_lora_init(model, file_name(path)))
    if not pointer and headroom.is_memory(reason):
        raise headroom.no_load(path, reason, on_gpu=headroom.is_gpus(reason, gpu_layers))
    if not pointer:
        raise UsageError(f"--lora {path}: {reason}")
    return ctypes.cast(pointer, C.llama_adapter_lora_p_ctypes)
