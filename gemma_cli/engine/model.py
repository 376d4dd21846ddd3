"""A model in llama.cpp: load, free. One thread at a time."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gemma_cli.engine import headroom
from gemma_cli.engine.admission import admit, parts_of
from gemma_cli.engine.library import C, Log
from gemma_cli.engine.lora import LoadedAdapters
from gemma_cli.engine.tokens import Vocabulary
from gemma_cli.errors import Cancelled, ModelFileError
from gemma_cli.models.adapter import Adapter
from gemma_cli.models.ggml import file_name, open_library

_log: Log | None = None


def quiet_backend() -> Log:
    """Start llama.cpp once a process; its log goes to the Log from the first line on."""
    global _log
    if _log is None:
        _log = Log()
        C.llama_backend_init()
    return _log


class _BufferOverride(ctypes.Structure):
    """llama_model_tensor_buft_override (llama.h), which the bindings do not declare."""

    _fields_ = (("pattern", ctypes.c_char_p), ("buft", ctypes.c_void_p))


class ModelParams:
    """llama_model_params for a way to lay a model out; the planner's figures hold for these.

    split: layers of each GPU, () for llama.cpp's own choice. experts_on_host:
    offloaded layers whose experts stay on the host. value points into this
    object: keep it until the model is loaded.
    """

    def __init__(
        self, gpu_layers: int, split: Sequence[int] = (), experts_on_host: Sequence[int] = ()
    ) -> None:
        self.value = C.llama_model_default_params()
        self.value.n_gpu_layers = gpu_layers
        if gpu_layers == 0:
            # Gemma 4's per-layer embeddings are gigabytes of which a token reads one
            # row: left in the file. By default only tensors above 4 GiB are.
            self.value.lazy_mode = C.LLAMA_LAZY_MODE_ON
            # A GPU would still compute long batches, and need a buffer for them.
            self._no_devices = (ctypes.c_void_p * 1)()
            self.value.devices = ctypes.cast(self._no_devices, ctypes.c_void_p)
        if any(split):
            self._split = (ctypes.c_float * C.llama_max_devices())(*_proportions(split))
            self.value.tensor_split = ctypes.cast(self._split, ctypes.POINTER(ctypes.c_float))
        if experts_on_host:
            layers = "|".join(str(layer) for layer in experts_on_host)
            self._overrides = (_BufferOverride * 2)()  # the second ends the list
            self._overrides[0].pattern = rf"^blk\.({layers})\.ffn_\w+_exps\.".encode()
            self._overrides[0].buft = _host_buffer_type()
            self.value.tensor_buft_overrides = ctypes.cast(self._overrides, ctypes.c_void_p)


def _proportions(split: Sequence[int]) -> list[float]:
    """Each GPU's part such that rounding moves no layer: its end lies between two layers."""
    used = [index for index, layers in enumerate(split) if layers]
    parts = [float(layers) for layers in split]
    parts[used[0]] -= 0.5
    parts[used[-1]] += 0.5
    return parts


def _host_buffer_type() -> int | None:
    ask = open_library("ggml-base").ggml_backend_cpu_buffer_type
    ask.restype = ctypes.c_void_p
    address: int | None = ask()
    return address


class Model:
    """Weights (or the vocabulary alone) of one GGUF file, memory-mapped."""

    def __init__(
        self,
        path: Path,
        gpu_layers: int,
        *,
        vocab_only: bool = False,
        split: Sequence[int] = (),
        experts_on_host: Sequence[int] = (),
        adapters: Sequence[Adapter] = (),
        on_progress: Callable[[float], bool] | None = None,
    ) -> None:
        """split, experts_on_host: see ModelParams.

        on_progress: called with 0.0 to 1.0; returning False stops the load.

        A file that nobody vouches for is first tried in a child process (see admission).
        """
        admit(path, lambda: on_progress is not None and not on_progress(0.0))
        headroom.check_load(path, parts_of(path))
        log = quiet_backend()
        layout = ModelParams(gpu_layers, split, experts_on_host)
        params = layout.value
        params.vocab_only = vocab_only
        stopped = False

        def report(value: float, _data: object) -> bool:
            nonlocal stopped
            stopped = on_progress is not None and not on_progress(value)
            return not stopped

        def load() -> Any:
            if stopped:
                return None
            return C.llama_model_load_from_file(file_name(path), params)

        params.progress_callback = C.llama_progress_callback(report)
        self._pointer, reason = log.explained(load)
        if stopped:
            raise Cancelled("stopped while the model was loading")
        if not self._pointer and headroom.is_memory(reason):
            on_gpu = headroom.is_gpus(reason, gpu_layers)
            raise headroom.no_load(path, reason, on_gpu=on_gpu)
        if not self._pointer:
            raise ModelFileError(
                f"llama.cpp cannot load {path}: {reason}",
                "check the file: gemma show PATH; GEMMA_DEBUG=1 shows llama.cpp's log",
            )
        self.vocabulary = Vocabulary(C.llama_model_get_vocab(self._pointer))
        self.sliding_window: int = C.llama_model_n_swa(self._pointer)
        try:
            self.adapters = LoadedAdapters(self._pointer, adapters, log, gpu_layers)
        except BaseException:
            self.close()
            raise

    @property
    def pointer(self) -> Any:
        return self._pointer

    def close(self) -> None:
        if self._pointer:
            C.llama_model_free(self._pointer)
            self._pointer = None
