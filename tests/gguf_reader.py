"""GGUF metadata read in plain Python: an opinion that shares no code with llama.cpp or gemma."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO

_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_STRING, _ARRAY = 8, 9


def read_metadata(path: Path) -> dict[str, Any]:
    """Every key of a GGUF file's header; strings decoded, arrays as lists."""
    with path.open("rb") as file:
        magic, _version, _tensors, count = struct.unpack("<4sIQQ", file.read(24))
        assert magic == b"GGUF"
        return {_string(file): _value(file, _number(file, "I")) for _ in range(count)}


def _number(file: BinaryIO, form: str) -> Any:
    return struct.unpack(f"<{form}", file.read(struct.calcsize(f"<{form}")))[0]


def _string(file: BinaryIO) -> str:
    return file.read(_number(file, "Q")).decode("utf-8")


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _string(file)
    if kind != _ARRAY:
        return _number(file, _SCALARS[kind])
    element, count = _number(file, "I"), _number(file, "Q")
    if element in (_STRING, _ARRAY):
        return [_value(file, element) for _ in range(count)]
    form = f"<{count}{_SCALARS[element]}"
    return list(struct.unpack(form, file.read(struct.calcsize(form))))
