"""llama.cpp's own account of a context's memory, byte by byte; for the tests on Linux.

llama_get_memory_breakdown returns a std::map by value: its nodes are read as
libstdc++ lays them out. The program itself reads the log instead.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

from gemma_cli.engine.context import context_params
from gemma_cli.engine.library import C
from gemma_cli.engine.simulation import Simulation
from gemma_cli.machine.memory import Plan
from gemma_cli.models.ggml import open_library

_SYMBOL = "_Z26llama_get_memory_breakdownPK13llama_context"


class _Node(ctypes.Structure):
    """_Rb_tree_node of pair<buffer type, {model, context, compute}>."""

    _fields_ = (
        ("color", ctypes.c_int),
        ("parent", ctypes.c_void_p),
        ("left", ctypes.c_void_p),
        ("right", ctypes.c_void_p),
        ("buffer_type", ctypes.c_void_p),
        ("model", ctypes.c_size_t),
        ("context", ctypes.c_size_t),
        ("compute", ctypes.c_size_t),
    )


class _Map(ctypes.Structure):
    _fields_ = (
        ("compare", ctypes.c_void_p),
        ("color", ctypes.c_int),
        ("root", ctypes.c_void_p),
        ("leftmost", ctypes.c_void_p),
        ("rightmost", ctypes.c_void_p),
        ("count", ctypes.c_size_t),
    )


@dataclass(frozen=True, slots=True)
class Account:
    """Bytes in one buffer type. context: KV cache (the output buffer is nearly nothing)."""

    model: int
    context: int
    compute: int


class Weightless(Simulation):
    """A file opened without allocating anything, as the program does."""

    def accounts(self, plan: Plan) -> dict[str, Account]:
        """By the buffer type's name."""
        params = context_params(plan)
        context: Any = C.llama_init_from_model(self.pointer, params)
        assert context, plan
        try:
            return _accounts(context)
        finally:
            C.llama_free(context)


def _accounts(context: Any) -> dict[str, Account]:
    ask = C.__dict__["_lib"][_SYMBOL]
    ask.restype, ask.argtypes = _Map, [ctypes.c_void_p]
    name_of = open_library("ggml-base").ggml_backend_buft_name
    name_of.restype, name_of.argtypes = ctypes.c_char_p, [ctypes.c_void_p]
    found: dict[str, Account] = {}
    waiting = [ask(context).root]  # the map itself is left to the process's end
    while waiting:
        address = waiting.pop()
        if not address:
            continue
        node = _Node.from_address(address)
        found[name_of(node.buffer_type).decode()] = Account(node.model, node.context, node.compute)
        waiting += [node.left, node.right]
    return found
