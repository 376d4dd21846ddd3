"""llama.cpp's C interface as the engine uses it: its log, and a flag that C code can poll."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import re
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemma_cli.errors import DoesNotFitError, EngineError

# An assert inside llama.cpp would otherwise start gdb on this process.
os.environ.setdefault("GGML_NO_BACKTRACE", "1")
# NumPy's linear algebra, of which nothing is used here, maps 32 MiB for each core,
# and ends the process where a limit on memory forbids it.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def _bindings() -> Any:
    """llama_cpp.llama_cpp without the package's __init__, which costs 80 ms.

    That imports the Llama class and all that hangs on it (NumPy, Jinja, a disk
    cache); the low-level bindings need none of it. A bare package stands in
    while they are imported and leaves again, so that a full import still works.
    """
    if "llama_cpp" in sys.modules:
        from llama_cpp import llama_cpp

        return llama_cpp
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None:
        raise EngineError(
            "llama-cpp-python is not installed", "install it: pip install llama-cpp-python"
        )
    package = types.ModuleType("llama_cpp")
    package.__spec__ = spec  # others may look the package up meanwhile
    package.__path__ = list(spec.submodule_search_locations or [])
    sys.modules["llama_cpp"] = package
    try:
        return importlib.import_module("llama_cpp.llama_cpp")
    except (OSError, RuntimeError) as error:  # the shared library does not load
        if "failed to map" in str(error) or "allocate memory" in str(error):
            raise DoesNotFitError(
                f"there is no memory for llama.cpp's library: {error}",
                "close other programs, or allow more: ulimit -v unlimited",
            ) from error
        raise EngineError(
            f"llama.cpp's library cannot be loaded: {error}",
            "reinstall it: pip install --force-reinstall --no-cache-dir llama-cpp-python",
        ) from error
    finally:
        del sys.modules["llama_cpp"]


if TYPE_CHECKING:
    from llama_cpp import llama_cpp as C  # noqa: N812 - the C namespace
else:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the bindings' own deprecations are nobody's business
        C = _bindings()

__all__ = ["AbortFlag", "C", "Log", "library_identity"]

_LOG_DEBUG, _LOG_ERROR, _LOG_CONT = 1, 4, 5  # enum ggml_log_level (ggml.h)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL("ucrtbase" if sys.platform == "win32" else None)


def library_identity() -> str:
    """Names the build of llama.cpp that is loaded: another one has another file."""
    path = Path(C.__dict__["_lib"]._name)
    status = path.stat()
    return f"{path.name} {status.st_size} {status.st_mtime_ns}"


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

    def is_set(self) -> bool:
        return self._byte[0] == b"\x01"


class Log:
    """llama.cpp's log: silent, or on stderr with GEMMA_DEBUG=1, and kept where it is asked for.

    Silence is a C function. A Python callback would take the GIL for each of
    hundreds of lines and slow a load down whenever another thread is busy; so
    what fails is done once more with the log on, to learn the reason.
    """

    def __init__(self) -> None:
        self._debug = os.environ.get("GEMMA_DEBUG", "") not in ("", "0")
        self._errors: list[str] = []
        self._continues_error = False
        self._all: list[str] | None = None  # every line, while somebody reads them
        self._silence = ctypes.cast(_libc().abs, C.llama_log_callback)
        self._keep = C.llama_log_callback(self._write)
        self._listen(self._debug)

    def _listen(self, on: bool) -> None:
        C.llama_log_set(self._keep if on else self._silence, ctypes.c_void_p(0))

    def explained(self, attempt: Callable[[], Any]) -> tuple[Any, str]:
        """The attempt's result; if it is NULL, that of a second one, and what the log said."""
        result = attempt()
        if result:
            return result, ""
        self._errors.clear()
        self._listen(True)
        try:
            result = attempt()
        finally:
            self._listen(self._debug)
        return result, self._reason()

    def read(self, attempt: Callable[[], Any]) -> tuple[Any, str]:
        """The attempt's result, and all that llama.cpp said meanwhile."""
        self._all = []
        self._listen(True)
        try:
            return attempt(), "".join(self._all)
        finally:
            self._all = None
            self._listen(self._debug)

    def _reason(self) -> str:
        """The first error line without the function's name and "error loading model ...: "."""
        lines = [line.strip() for line in self._errors if line.strip()]
        if not lines:
            return "it did not say why"
        return re.sub(r"^\w+: ((error|failed) [\w ]+: )*", "", lines[0])

    def _write(self, level: int, text: bytes, _data: object) -> None:
        line = text.decode("utf-8", "replace")
        if self._all is not None:
            self._all.append(line)
        if self._debug and level != _LOG_DEBUG:
            sys.stderr.write(line)
        if level == _LOG_ERROR:
            self._errors.append(line)
            self._continues_error = not line.endswith("\n")
        elif level == _LOG_CONT and self._continues_error and self._errors:
            self._errors[-1] += line
