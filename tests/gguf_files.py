"""GGUF files made from nothing: small, valid, or wrong in one chosen way."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gemma_cli.models.anatomy import BLOCKS

_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9
_ALIGNMENT = 32
Value = int | float | bool | str | Sequence[int] | Sequence[float] | Sequence[bool] | Sequence[str]

GEMMA3: dict[str, Value] = {
    "general.architecture": "gemma3",
    "general.name": "Tiny Gemma",
    "general.file_type": 7,
    "general.license": "gemma",
    "gemma3.block_count": 6,
    "gemma3.context_length": 32768,
    "gemma3.embedding_length": 64,
    "gemma3.feed_forward_length": 128,
    "gemma3.attention.head_count": 4,
    "gemma3.attention.head_count_kv": 1,
    "gemma3.attention.key_length": 16,
    "gemma3.attention.value_length": 16,
    "gemma3.attention.sliding_window": 512,
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": ["<pad>", "<eos>", "<bos>", "a", "b"],
}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor to write. shape: fastest dimension first; kind: ggml's type."""

    name: str
    shape: tuple[int, ...]
    kind: int = 0
    data: bytes = b""

    @property
    def bytes(self) -> int:
        block, size = _BLOCKS[self.kind]
        return math.prod(self.shape) // block * size


# ggml's numbers of its types (ggml.h).
KINDS = {
    "F32": 0, "F16": 1, "Q4_0": 2, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8,
    "Q4_K": 12, "Q5_K": 13, "Q6_K": 14, "BF16": 30,
}  # fmt: skip
F32, F16, Q4_0, Q8_0 = (KINDS[name] for name in ("F32", "F16", "Q4_0", "Q8_0"))
Q4_K, Q6_K = KINDS["Q4_K"], KINDS["Q6_K"]
_BLOCKS = {number: BLOCKS[name] for name, number in KINDS.items()}


def gguf_header(metadata: Mapping[str, Value], tensors: Sequence[TensorSpec]) -> bytes:
    """A header with the padding after it; the tensors' data is to follow."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    head += b"".join(_pair(key, value) for key, value in metadata.items())
    offset = 0
    for tensor in tensors:
        head += _string(tensor.name) + struct.pack("<I", len(tensor.shape))
        head += struct.pack(f"<{len(tensor.shape)}Q", *tensor.shape)
        head += struct.pack("<IQ", tensor.kind, offset)
        offset += tensor.bytes + -tensor.bytes % _ALIGNMENT
    return head + b"\0" * (-len(head) % _ALIGNMENT)


def write_gguf(path: Path, metadata: Mapping[str, Value], tensors: Sequence[TensorSpec]) -> Path:
    """A whole file; where a tensor has no data the file is sparse (zeros)."""
    with path.open("wb") as file:
        file.write(gguf_header(metadata, tensors))
        for tensor in tensors:
            start = file.tell()
            file.write(tensor.data)
            file.seek(start + tensor.bytes + -tensor.bytes % _ALIGNMENT)
        file.truncate(file.tell())
    return path


def gguf(
    metadata: Mapping[str, Value] = GEMMA3, tensor_bytes: int = 4096, *, seed: int = 1
) -> bytes:
    """A GGUF file whose one F32 tensor holds `tensor_bytes` of noise."""
    elements = max(tensor_bytes // 4, 1)
    head = gguf_header(metadata, [TensorSpec("token_embd.weight", (elements,))])
    noise = random.Random(seed).randbytes(min(elements * 4, 1 << 20))
    data = (noise * (elements * 4 // len(noise) + 1))[: elements * 4]
    return head + data + b"\0" * (-len(data) % _ALIGNMENT)


def projector(tensor_bytes: int = 1024) -> bytes:
    """A vision part, as its architecture says."""
    return gguf({"general.architecture": "clip", "clip.has_vision_encoder": True}, tensor_bytes)


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _pair(key: str, value: Value) -> bytes:
    return _string(key) + _typed(value)


def _typed(value: Value) -> bytes:
    kind, raw = _scalar(value)
    if kind != _ARRAY:
        return struct.pack("<I", kind) + raw
    assert isinstance(value, Sequence)
    elements = [_element(element) for element in value]
    head = struct.pack("<IIQ", _ARRAY, elements[0][0], len(elements))
    return head + b"".join(raw for _, raw in elements)


def _element(value: int | float | bool | str) -> tuple[int, bytes]:
    """In a list whole numbers have a sign: llama.cpp wants the tokens' types so."""
    if isinstance(value, int) and not isinstance(value, bool):
        return _INT32, struct.pack("<i", value)
    return _scalar(value)


def _scalar(value: Value) -> tuple[int, bytes]:
    if isinstance(value, bool):
        return _BOOL, struct.pack("<?", value)
    if isinstance(value, int):
        return _UINT32, struct.pack("<I", value)
    if isinstance(value, float):
        return _FLOAT32, struct.pack("<f", value)
    if isinstance(value, str):
        return _STRING, _string(value)
    return _ARRAY, b""
