"""A child process that loads a model file without its weights, so that llama.cpp may fail there.

llama.cpp answers some files by an assert, which ends the process. Here it is
the child's: metadata, vocabulary, tensor layout and the graph of a small
context are made as a load would make them, with no memory for weights.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

# The child's exit codes; anything else is a crash.
LOADS, REFUSED, NO_MEMORY = 0, 64, 65

CPU_SECONDS = 10
# A Gemma's metadata and vocabulary take 150 MiB of it.
MOST_BYTES = 2 << 30
_N_CTX = 512
# Every byte, for a vocabulary without one of them aborts when it meets it; some
# scripts, white space and marks as they come in prompts.
_TEXTS = (bytes(range(1, 256)), "Hello,  world!\n\n\t1 <b>ü</b> हिन्दी 日本 🙂\u200d ▁".encode())


def main(path: str) -> int:
    """Try the file; the reason for a refusal goes to stdout."""
    _limit_resources()
    from gemma_cli.engine.library import C, Log

    log = Log()
    C.llama_backend_init()
    model, reason = log.explained(lambda: _model(C, path))
    if model:
        context, reason = log.explained(lambda: _context(C, model))
        if context:
            _tokenize(C, C.llama_model_get_vocab(model))
            return LOADS
    sys.stdout.buffer.write(reason.encode("utf-8", "replace"))
    sys.stdout.flush()
    return NO_MEMORY if "bad_alloc" in reason else REFUSED


def _model(C: Any, path: str) -> Any:  # noqa: N803 - the C namespace
    from gemma_cli.models.ggml import file_name

    params = C.llama_model_default_params()
    params.no_alloc = True
    params.load_mode = C.LLAMA_LOAD_MODE_NONE  # mapping would be asked to allocate
    params.n_gpu_layers = 0
    params.split_mode, params.main_gpu = C.LLAMA_SPLIT_MODE_NONE, -1  # no GPU at all
    return C.llama_model_load_from_file(file_name(Path(path)), params)


def _context(C: Any, model: Any) -> Any:  # noqa: N803
    params = C.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = _N_CTX
    params.n_outputs_max = params.n_seq_max = 1
    params.swa_full = False
    return C.llama_init_from_model(model, params)


def _tokenize(C: Any, vocab: Any) -> None:  # noqa: N803
    for text in _TEXTS:
        room = len(text) + 8
        C.llama_tokenize(vocab, text, len(text), (C.llama_token * room)(), room, False, True)


def _limit_resources() -> None:
    """Bounds of time and memory where the system has them; no core file, no dialogue."""
    if sys.platform == "win32":
        import ctypes

        no_dialogues = 0x8003  # SEM_FAILCRITICALERRORS | NOGPFAULTERRORBOX | NOOPENFILEERRORBOX
        ctypes.windll.kernel32.SetErrorMode(no_dialogues)
        return
    import resource

    # RLIMIT_DATA counts what is written to; address space alone costs nothing
    # and libraries of GPUs reserve much of it.
    wanted = {"RLIMIT_CPU": CPU_SECONDS, "RLIMIT_CORE": 0, "RLIMIT_DATA": MOST_BYTES}
    for name, value in wanted.items():
        kind = getattr(resource, name)
        _, hard = resource.getrlimit(kind)
        lowered = value if hard == resource.RLIM_INFINITY else min(value, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(kind, (lowered, hard))
