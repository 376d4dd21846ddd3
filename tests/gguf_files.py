"""GGUF files made from nothing: small, valid, or wrong in one chosen way."""

from __future__ import annotations

import random
import struct
from collections.abc import Mapping, Sequence

_UINT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 6, 7, 8, 9
_ALIGNMENT = 32
Value = int | float | bool | str | Sequence[int] | Sequence[bool] | Sequence[str]

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


def gguf(
    metadata: Mapping[str, Value] = GEMMA3, tensor_bytes: int = 4096, *, seed: int = 1
) -> bytes:
    """A GGUF file whose one F32 tensor holds `tensor_bytes` of noise."""
    elements = max(tensor_bytes // 4, 1)
    pairs = b"".join(_pair(key, value) for key, value in metadata.items())
    info = _string("token_embd.weight") + struct.pack("<IQIQ", 1, elements, 0, 0)
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, len(metadata)) + pairs + info
    head += b"\0" * (-len(head) % _ALIGNMENT)
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
    elements = [_scalar(element) for element in value]
    head = struct.pack("<IIQ", _ARRAY, elements[0][0], len(elements))
    return head + b"".join(raw for _, raw in elements)


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
