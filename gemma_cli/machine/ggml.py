"""Where llama.cpp's shared libraries are, opened without the Python package around them.

Importing llama_cpp costs 0.2 s; asking ggml for a device or a file header needs
only the library. The very same files are opened that llama_cpp opens later, so
that the process holds one copy and one device registry.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from functools import cache
from pathlib import Path

from gemma_cli.errors import GemmaError


def library_dir() -> Path:
    """The folder with libllama and libggml; LLAMA_CPP_LIB_PATH overrides it, as in llama_cpp."""
    override = os.environ.get("LLAMA_CPP_LIB_PATH")
    if override:
        return Path(override)
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        raise GemmaError(
            "llama-cpp-python is not installed in this Python environment",
            "install it: pip install llama-cpp-python",
        )
    return Path(spec.origin).parent / "lib"


@cache
def open_library(name: str) -> ctypes.CDLL:
    """Open "llama", "ggml" or "ggml-base" by the file name that llama_cpp itself would map.

    libllama is opened by its plain name, as llama_cpp does. The ggml libraries are
    mapped by libllama under their soname (libggml.so.0), so that one is taken first.
    """
    folder = library_dir()
    if sys.platform == "win32":
        os.add_dll_directory(str(folder))
    for file_name in _file_names(name):
        path = folder / file_name
        if path.exists():
            try:
                return ctypes.CDLL(str(path))
            except OSError as error:
                raise GemmaError(
                    f"llama.cpp's library cannot be loaded: {error}",
                    "reinstall it: pip install --force-reinstall --no-cache-dir llama-cpp-python",
                ) from error
    raise GemmaError(
        f"llama.cpp's library '{name}' is not in {folder}",
        "reinstall it: pip install --force-reinstall --no-cache-dir llama-cpp-python",
    )


def _file_names(name: str) -> tuple[str, ...]:
    if sys.platform == "win32":
        return (f"{name}.dll", f"lib{name}.dll")
    if sys.platform == "darwin":
        plain = (f"lib{name}.so", f"lib{name}.dylib")
        return plain if name == "llama" else (f"lib{name}.0.dylib", *plain)
    plain = (f"lib{name}.so",)
    return plain if name == "llama" else (f"lib{name}.so.0", *plain)
