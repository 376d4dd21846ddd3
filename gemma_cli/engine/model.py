"""A model in llama.cpp: load, free. One thread at a time."""

from __future__ import annotations

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
from gemma_cli.models.ggml import file_name

_log: Log | None = None


def quiet_backend() -> Log:
    """Start llama.cpp once a process; its log goes to the Log from the first line on."""
    global _log
    if _log is None:
        _log = Log()
        C.llama_backend_init()
    return _log


def model_params(gpu_layers: int) -> Any:
    """llama_model_params for so many layers; the planner's figures hold for these alone."""
    params = C.llama_model_default_params()
    params.n_gpu_layers = gpu_layers
    if gpu_layers == 0:
        # Gemma 4's per-layer embeddings are gigabytes of which a token reads one
        # row: left in the file. By default only tensors above 4 GiB are.
        params.lazy_mode = C.LLAMA_LAZY_MODE_ON
    return params


class Model:
    """Weights (or the vocabulary alone) of one GGUF file, memory-mapped."""

    def __init__(
        self,
        path: Path,
        gpu_layers: int,
        *,
        vocab_only: bool = False,
        adapters: Sequence[Adapter] = (),
        on_progress: Callable[[float], bool] | None = None,
    ) -> None:
        """on_progress: called with 0.0 to 1.0; returning False stops the load.

        A file that nobody vouches for is first tried in a child process (see admission).
        """
        admit(path, lambda: on_progress is not None and not on_progress(0.0))
        headroom.check_load(path, parts_of(path))
        log = quiet_backend()
        params = model_params(gpu_layers)
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
            raise headroom.no_load(path, reason)
        if not self._pointer:
            raise ModelFileError(
                f"llama.cpp cannot load {path}: {reason}",
                "check the file: gemma show PATH; GEMMA_DEBUG=1 shows llama.cpp's log",
            )
        self.vocabulary = Vocabulary(C.llama_model_get_vocab(self._pointer))
        self.adapters = LoadedAdapters(self._pointer, adapters, log)
        self.sliding_window: int = C.llama_model_n_swa(self._pointer)

    @property
    def pointer(self) -> Any:
        return self._pointer

    def close(self) -> None:
        if self._pointer:
            C.llama_model_free(self._pointer)
            self._pointer = None
