"""ggml's own GGUF reader, bound by ctypes without loading llama.cpp around it.

Opening libggml-base alone costs a few milliseconds; importing llama_cpp costs
a hundred. Nothing here interprets a file: see gguf.py.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from gemma_cli.errors import EngineError

UINT8, INT8, UINT16, INT16, UINT32, INT32, FLOAT32, BOOL = range(8)
STRING, ARRAY, UINT64, INT64, FLOAT64 = range(8, 13)

_SCALARS: dict[int, tuple[str, Any]] = {
    UINT8: ("gguf_get_val_u8", ctypes.c_uint8),
    INT8: ("gguf_get_val_i8", ctypes.c_int8),
    UINT16: ("gguf_get_val_u16", ctypes.c_uint16),
    INT16: ("gguf_get_val_i16", ctypes.c_int16),
    UINT32: ("gguf_get_val_u32", ctypes.c_uint32),
    INT32: ("gguf_get_val_i32", ctypes.c_int32),
    FLOAT32: ("gguf_get_val_f32", ctypes.c_float),
    BOOL: ("gguf_get_val_bool", ctypes.c_bool),
    UINT64: ("gguf_get_val_u64", ctypes.c_uint64),
    INT64: ("gguf_get_val_i64", ctypes.c_int64),
    FLOAT64: ("gguf_get_val_f64", ctypes.c_double),
}
# Array elements lie in memory as C values; a bool is always one byte there.
_ELEMENTS: dict[int, Any] = {kind: c for kind, (_, c) in _SCALARS.items()} | {BOOL: ctypes.c_int8}

_MAX_DIMS = 4
_MOST_NUMBERS = 4096  # what is read as a tuple has a value for each layer
_REINSTALL = (
    "reinstall it: pip install --force-reinstall --no-cache-dir llama-cpp-python"
    " (or correct LLAMA_CPP_LIB_PATH)"
)
_LogCallback = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)


class _InitParams(ctypes.Structure):
    _fields_ = [("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p)]


def library_dir() -> Path:
    """The folder of llama.cpp's shared libraries, without importing llama_cpp."""
    override = os.environ.get("LLAMA_CPP_LIB_PATH")
    if override:
        return Path(override)
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or not spec.origin:
        raise EngineError(
            "llama-cpp-python is not installed", "install it: pip install llama-cpp-python"
        )
    return Path(spec.origin).parent / "lib"


@cache
def open_library(name: str) -> ctypes.CDLL:
    """Open "ggml" or "ggml-base" under the name that libllama asks for.

    The wheel holds copies, not links: opening libggml.so after libllama mapped
    libggml.so.0 would map the same code twice, with a device registry of its own.
    """
    folder = library_dir()
    if sys.platform == "win32":
        os.add_dll_directory(str(folder))
        names = [f"{name}.dll", f"lib{name}.dll"]
    else:
        soname = re.compile(rf"lib{name}\.(so\.\d+|\d+\.dylib)")
        versioned = sorted(path.name for path in folder.glob(f"lib{name}.*"))
        names = [file for file in versioned if soname.fullmatch(file)]
        names += [f"lib{name}.so", f"lib{name}.dylib"]
    for file in names:
        if (folder / file).is_file():
            try:
                return ctypes.CDLL(str(folder / file))
            except OSError as error:
                raise EngineError(f"cannot load {folder / file}: {error}", _REINSTALL) from error
    raise EngineError(f"llama.cpp's lib{name} is not in {folder}", _REINSTALL)


@cache
def _library() -> ctypes.CDLL:
    library = open_library("ggml-base")
    pointer, text, index = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int64
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "gguf_init_from_file": (pointer, [text, _InitParams]),
        "gguf_free": (None, [pointer]),
        "gguf_get_data_offset": (ctypes.c_size_t, [pointer]),
        "gguf_find_key": (index, [pointer, text]),
        "gguf_get_kv_type": (ctypes.c_int, [pointer, index]),
        "gguf_get_arr_type": (ctypes.c_int, [pointer, index]),
        "gguf_get_arr_n": (ctypes.c_size_t, [pointer, index]),
        "gguf_get_arr_data": (pointer, [pointer, index]),
        "gguf_get_val_str": (text, [pointer, index]),
        "gguf_get_n_tensors": (index, [pointer]),
        "gguf_get_tensor_name": (text, [pointer, index]),
        "gguf_get_tensor_type": (ctypes.c_int, [pointer, index]),
        "gguf_get_tensor_size": (ctypes.c_size_t, [pointer, index]),
        "gguf_get_tensor_offset": (ctypes.c_size_t, [pointer, index]),
        "gguf_get_tensor_ne": (ctypes.POINTER(ctypes.c_int64), [pointer, index]),
        "ggml_type_name": (text, [ctypes.c_int]),
        "ggml_log_set": (None, [pointer, pointer]),
        "ggml_log_get": (None, [ctypes.POINTER(pointer), ctypes.POINTER(pointer)]),
    }
    signatures |= {name: (kind, [pointer, index]) for name, kind in _SCALARS.values()}
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


@contextmanager
def _captured_log(library: ctypes.CDLL) -> Iterator[list[str]]:
    """ggml's messages go into the list; whoever listened before listens again after."""
    lines: list[str] = []

    def keep(_level: int, text: bytes, _data: object) -> None:
        lines.append(text.decode("utf-8", "replace"))

    callback = _LogCallback(keep)
    before, data = ctypes.c_void_p(), ctypes.c_void_p()
    library.ggml_log_get(ctypes.byref(before), ctypes.byref(data))
    library.ggml_log_set(ctypes.cast(callback, ctypes.c_void_p), None)
    try:
        yield lines
    finally:
        library.ggml_log_set(before, data)


class Reader:
    """One opened GGUF header. Values are copied out, so nothing outlives `close`."""

    def __init__(self, library: ctypes.CDLL, context: int) -> None:
        self._library = library
        self._context = context

    def value(self, key: str) -> object:
        """A scalar, a str, a tuple of numbers; None for a key that is not there,
        for an array of strings (ask `count` for its length) and for a very long one."""
        lib, ctx = self._library, self._context
        index = lib.gguf_find_key(ctx, key.encode())
        if index < 0:
            return None
        # The typed getters abort the process on any other type: ask first.
        kind = lib.gguf_get_kv_type(ctx, index)
        if kind == STRING:
            text: bytes = lib.gguf_get_val_str(ctx, index)
            return text.decode("utf-8", "replace")
        if kind == ARRAY:
            return self._numbers(index)
        name, _ = _SCALARS[kind]
        value: object = getattr(lib, name)(ctx, index)
        return value

    def _numbers(self, index: int) -> tuple[Any, ...] | None:
        lib, ctx = self._library, self._context
        element = _ELEMENTS.get(lib.gguf_get_arr_type(ctx, index))
        count = lib.gguf_get_arr_n(ctx, index)
        if element is None or count > _MOST_NUMBERS:
            return None
        if count == 0:
            return ()
        address = lib.gguf_get_arr_data(ctx, index)
        return tuple((element * count).from_address(address))

    def has(self, key: str) -> bool:
        return bool(self._library.gguf_find_key(self._context, key.encode()) >= 0)

    def count(self, key: str) -> int:
        """How many elements an array has; 0 for anything else."""
        lib, ctx = self._library, self._context
        index = lib.gguf_find_key(ctx, key.encode())
        if index < 0 or lib.gguf_get_kv_type(ctx, index) != ARRAY:
            return 0
        return int(lib.gguf_get_arr_n(ctx, index))

    def data_offset(self) -> int:
        return int(self._library.gguf_get_data_offset(self._context))

    def tensors(self) -> Iterator[tuple[str, str, tuple[int, ...], int, int]]:
        """(name, type, shape without trailing ones, bytes, offset in the data section)"""
        lib, ctx = self._library, self._context
        for i in range(lib.gguf_get_n_tensors(ctx)):
            ne = lib.gguf_get_tensor_ne(ctx, i)[:_MAX_DIMS]
            while len(ne) > 1 and ne[-1] == 1:
                ne.pop()
            kind = lib.ggml_type_name(lib.gguf_get_tensor_type(ctx, i)) or b"?"
            name = lib.gguf_get_tensor_name(ctx, i).decode("utf-8", "replace")
            size = lib.gguf_get_tensor_size(ctx, i)
            yield name, kind.decode().upper(), tuple(ne), size, lib.gguf_get_tensor_offset(ctx, i)

    def close(self) -> None:
        self._library.gguf_free(self._context)


def file_name(path: Path) -> bytes:
    """A path as ggml and llama.cpp open it: UTF-8 on Windows, the file system's bytes elsewhere."""
    return str(path).encode() if sys.platform == "win32" else os.fsencode(path)


def open_gguf(path: Path) -> Reader | str:
    """The file's header, or ggml's reason for not taking it."""
    library = _library()
    with _captured_log(library) as lines:
        context = library.gguf_init_from_file(file_name(path), _InitParams(no_alloc=True, ctx=None))
    if context:
        return Reader(library, context)
    reasons = [line.split(": ", 1)[-1].strip() for line in lines if line.strip()]
    return reasons[0] if reasons else "its header cannot be read"
