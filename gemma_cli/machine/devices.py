"""What this computer has, as far as this process may use it: memory, cores, ggml's devices."""

from __future__ import annotations

import ctypes
import platform
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from gemma_cli.machine.cpu import usable_threads
from gemma_cli.machine.ram import total_and_free
from gemma_cli.models.ggml import open_library

Kind = Literal["cpu", "gpu", "igpu"]

# enum ggml_backend_dev_type (ggml-backend.h); accelerators (3) hold no layers.
_GGML_KINDS: dict[int, Kind] = {1: "gpu", 2: "igpu"}
_METAL = "MTL"


@dataclass(frozen=True, slots=True)
class Device:
    """Memory that can hold weights or KV cache. Bytes; total 0 means unknown.

    backend: ggml's name of what drives it ("CUDA", "Vulkan", "MTL"). id: what
    ggml calls it ("CUDA0"). unified: its memory is the host's, not beside it.
    """

    name: str
    kind: Kind
    total: int
    free: int
    backend: str = ""
    id: str = ""
    unified: bool = False


@dataclass(frozen=True, slots=True)
class Machine:
    """The host and its GPUs. threads: what llama.cpp should use for decoding."""

    host: Device
    gpus: tuple[Device, ...]
    threads: int


def this_machine() -> Machine:
    """Ask the system and ggml what is here now."""
    return Machine(host=host_memory(), gpus=gpus(), threads=usable_threads())


def host_memory() -> Device:
    """RAM that can be had without swapping: MemAvailable, bounded by the cgroup's limit."""
    total, free = total_and_free()
    return Device("CPU", "cpu", total, free, backend="CPU", id="CPU")


def backends() -> tuple[str, ...]:
    """The names of ggml's registries in this build: ("CPU",) alone has no GPU in it."""
    ggml, base = _libraries()
    count = ggml.ggml_backend_reg_count()
    return tuple(
        _text(base.ggml_backend_reg_name(ggml.ggml_backend_reg_get(i))) for i in range(count)
    )


def gpus() -> tuple[Device, ...]:
    """The GPUs that this build of llama.cpp can use, in its own order. Source: ggml-backend.h."""
    ggml, base = _libraries()
    devices = (ggml.ggml_backend_dev_get(i) for i in range(ggml.ggml_backend_dev_count()))
    found = ((device, _GGML_KINDS.get(base.ggml_backend_dev_type(device))) for device in devices)
    return tuple(_gpu(base, device, kind) for device, kind in found if kind is not None)


def _gpu(base: Any, device: int, kind: Kind) -> Device:
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    base.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
    backend = _text(base.ggml_backend_reg_name(base.ggml_backend_dev_backend_reg(device)))
    apple = backend == _METAL and platform.machine() == "arm64"
    return Device(
        _text(base.ggml_backend_dev_description(device)),
        kind,
        total.value,
        min(free.value, total.value),
        backend=backend,
        id=_text(base.ggml_backend_dev_name(device)),
        unified=kind == "igpu" or apple,
    )


def _text(value: bytes | None) -> str:
    return (value or b"?").decode("utf-8", "replace")


@cache
def _libraries() -> tuple[ctypes.CDLL, ctypes.CDLL]:
    """libggml and libggml-base with the signatures that are called here."""
    ggml, base = open_library("ggml"), open_library("ggml-base")
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t
    for name in ("dev", "reg"):
        getattr(ggml, f"ggml_backend_{name}_count").restype = number
        getter = getattr(ggml, f"ggml_backend_{name}_get")
        getter.restype, getter.argtypes = pointer, [number]
    size_p = ctypes.POINTER(number)
    for name, result, more in (
        ("dev_type", ctypes.c_int, []),
        ("dev_name", text, []),
        ("dev_description", text, []),
        ("dev_memory", None, [size_p, size_p]),
        ("dev_backend_reg", pointer, []),
        ("reg_name", text, []),
    ):
        function = getattr(base, f"ggml_backend_{name}")
        function.restype, function.argtypes = result, [pointer, *more]
    return ggml, base
