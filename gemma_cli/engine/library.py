"""llama.cpp's C interface as the engine uses it: its log, and a flag that C code can poll."""

from __future__ import annotations

import ctypes
import os
import sys
import warnings

# An assert inside llama.cpp would otherwise start gdb on this process.
os.environ.setdefault("GGML_NO_BACKTRACE", "1")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the bindings' own deprecations are not the user's business
    from llama_cpp import llama_cpp as C  # noqa: N812 - the C namespace

__all__ = ["C", "AbortFlag", "Log"]

_LOG_ERROR, _LOG_CONT = 4, 5  # enum ggml_log_level (ggml.h): 1 debug .. 4 error, 5 continues


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL("ucrtbase" if sys.platform == "win32" else None)


class AbortFlag:
    """A flag that llama_decode polls between graph nodes without touching Python.

    A Python callback would take the GIL for every node, some seven hundred
    times a token, against a main thread that renders. strlen of a two-byte
    buffer is the callback instead: 0 for "", 1 for "\\x01". An aligned byte
    store is atomic, so setting it needs no lock, in a signal handler neither.
    """

    def __init__(self) -> None:
        self._byte = ctypes.create_string_buffer(2)
        self.callback = ctypes.cast(_libc().strlen, C.ggml_abort_callback)
        self.address = ctypes.cast(self._byte, ctypes.c_void_p)

    def set(self) -> None:
        self._byte[0] = b"\x01"

    def clear(self) -> None:
        self._byte[0] = b"\x00"

    def is_set(self) -> bool:
        return self._byte[0] == b"\x01"


class Log:
    """llama.cpp's log: the errors of the last operation are kept, nothing is printed.

    GEMMA_DEBUG=1 sends every line to stderr as well.
    """

    def __init__(self) -> None:
        self._debug = os.environ.get("GEMMA_DEBUG", "") not in ("", "0")
        self._errors: list[str] = []
        self._continues_error = False
        self._callback = C.llama_log_callback(self._write)
        C.llama_log_set(self._callback, ctypes.c_void_p(0))

    def clear(self) -> None:
        self._errors.clear()

    def reason(self) -> str:
        """What llama.cpp said went wrong, the most specific line; empty if it said nothing."""
        for line in self._errors:
            text = line.strip()
            if text:
                # "llama_model_load: error loading model: <reason>"
                return text.rsplit("error loading model: ", 1)[-1].split(": ", 1)[-1]
        return ""

    def _write(self, level: int, text: bytes, _data: object) -> None:
        line = text.decode("utf-8", "replace")
        if self._debug:
            sys.stderr.write(line)
        if level == _LOG_ERROR:
            self._errors.append(line)
            self._continues_error = not line.endswith("\n")
        elif level == _LOG_CONT and self._continues_error and self._errors:
            self._errors[-1] += line
