"""A Gemma 4 that llama.cpp loads and that says what it is told.

Its layers add nothing, an embedding is one-hot, and the output matrix names
the token that follows each token. So the token said last decides the next.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from tests.gguf_files import TensorSpec, Value, write_gguf

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6  # token types (llama.h)

# Kinds as in the published vocabulary of Gemma 4.
_CONTROL = ["<pad>", "<eos>", "<bos>", "<unk>", "<|tool>", "<tool|>", "<|think|>", "<|turn>"]
_CONTROL += ["<turn|>", "<|image>", "<image|>", "<|image|>", "<|audio>", "<audio|>"]
_MARKS = ["<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>"]
_MARKS += ['<|"|>', "<|channel>", "<channel|>"]
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_LETTERS = [*"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,;:?!<>|/\"'_-é\n\t▁"]
_MERGES = ["\n \n", "\n\n \n", "▁ ▁", "t h", "th e", "▁ the", "h e", "i n", "▁ a", "< |", "| >"]
_MERGES += ["o u", "u s", "us e", "use r", "m o", "mo d", "mod e", "mode l", "< /", "▁▁ ▁▁"]


def gemma4_tokenizer(more: Sequence[str] = ()) -> dict[str, Value]:
    """A small vocabulary with every kind of token that Gemma 4's has, and `more` as words."""
    merged = [merge.replace(" ", "") for merge in _MERGES]
    texts = [*_CONTROL, *_MARKS, *_BYTES, *dict.fromkeys([*_LETTERS, *merged])]
    texts += [text for text in dict.fromkeys(more) if text not in texts]
    kinds = [CONTROL] * len(_CONTROL) + [USER_DEFINED] * len(_MARKS) + [BYTE] * 256
    kinds[3] = UNKNOWN
    return {
        "tokenizer.ggml.model": "gemma4",
        "tokenizer.ggml.tokens": texts,
        "tokenizer.ggml.scores": [-1000.0] * len(texts),
        "tokenizer.ggml.token_type": kinds + [NORMAL] * (len(texts) - len(kinds)),
        "tokenizer.ggml.merges": _MERGES,
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.eos_token_id": texts.index("<turn|>"),
        "tokenizer.ggml.unknown_token_id": 3,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_space_prefix": False,
    }


def scripted_gemma4(
    path: Path, says: Sequence[str], *, small: bool = False, template: str | None = None
) -> Path:
    """Write a chat model that answers with the tokens `says`, then ends its turn.

    says: distinct tokens, none of them a newline alone: that begins the answer.
    small: with the per-layer embeddings that E2B and E4B have.
    """
    tokenizer = gemma4_tokenizer(says)
    texts = tokenizer["tokenizer.ggml.tokens"]
    assert isinstance(texts, list)
    width = len(texts) + -len(texts) % 32
    metadata = _metadata(width, small=small) | tokenizer
    if template is not None:
        metadata["tokenizer.chat_template"] = template
    follows = dict.fromkeys(range(len(texts)), texts.index("<turn|>"))
    for before, after in pairwise(["\n", *says, "<turn|>"]):
        follows[texts.index(before)] = texts.index(after)
    return write_gguf(path, metadata, _tensors(len(texts), width, follows, small=small))


_LAYERS, _HEAD, _PER_LAYER = 2, 32, 32


def _metadata(width: int, *, small: bool) -> dict[str, Value]:
    shape: dict[str, Value] = {
        "block_count": _LAYERS,
        "context_length": 8192,
        "embedding_length": width,
        "embedding_length_per_layer_input": _PER_LAYER if small else 0,
        "feed_forward_length": 32,
        "attention.head_count": 1,
        "attention.head_count_kv": 1,
        "attention.key_length": _HEAD,
        "attention.value_length": _HEAD,
        "attention.key_length_swa": _HEAD,
        "attention.value_length_swa": _HEAD,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "attention.sliding_window": 512,
        "attention.sliding_window_pattern": [True, False],
        "attention.shared_kv_layers": 0,
        "rope.freq_base": 1e6,
        "rope.freq_base_swa": 1e4,
        "rope.dimension_count": _HEAD,
        "rope.dimension_count_swa": _HEAD,
    }
    return {
        "general.architecture": "gemma4",
        "general.type": "model",
        "general.name": "Scripted Gemma it",
        "general.file_type": 0,
        **{f"gemma4.{key}": value for key, value in shape.items()},
    }


def _tensors(
    count: int, width: int, follows: Mapping[int, int], *, small: bool
) -> list[TensorSpec]:
    output = [bytearray(4 * width) for _ in range(count)]
    for before, after in follows.items():
        struct.pack_into("<f", output[after], 4 * before, 1.0)
    embedding = [bytearray(4 * width) for _ in range(count)]
    for token, row in enumerate(embedding):
        struct.pack_into("<f", row, 4 * token, 1.0)
    tensors = [
        TensorSpec("token_embd.weight", (width, count), data=b"".join(embedding)),
        TensorSpec("output.weight", (width, count), data=b"".join(output)),
        _ones("output_norm.weight", width, 4.0),
        _ones("rope_freqs.weight", _HEAD // 2),
    ]
    if small:
        tensors += [
            TensorSpec("per_layer_token_embd.weight", (_PER_LAYER * _LAYERS, count)),
            TensorSpec("per_layer_model_proj.weight", (width, _PER_LAYER * _LAYERS)),
            _ones("per_layer_proj_norm.weight", _PER_LAYER),
        ]
    for layer in range(_LAYERS):
        tensors += _layer(f"blk.{layer}", width, small=small)
    return tensors


def _layer(name: str, width: int, *, small: bool) -> list[TensorSpec]:
    """A layer whose last norms are zero: what goes in comes out."""
    shapes: dict[str, tuple[int, ...]] = {
        "attn_q": (width, _HEAD),
        "attn_k": (width, _HEAD),
        "attn_v": (width, _HEAD),
        "attn_output": (_HEAD, width),
        "post_attention_norm": (width,),
        "ffn_gate": (width, 32),
        "ffn_up": (width, 32),
        "ffn_down": (32, width),
        "post_ffw_norm": (width,),
    }
    if small:
        shapes |= {
            "inp_gate": (width, _PER_LAYER),
            "proj": (_PER_LAYER, width),
            "post_norm": (width,),
        }
    norms = {"attn_norm": width, "attn_q_norm": _HEAD, "attn_k_norm": _HEAD, "ffn_norm": width}
    return [
        *(TensorSpec(f"{name}.{part}.weight", shape) for part, shape in shapes.items()),
        *(_ones(f"{name}.{part}.weight", size) for part, size in norms.items()),
    ]


def _ones(name: str, size: int, value: float = 1.0) -> TensorSpec:
    return TensorSpec(name, (size,), data=struct.pack(f"<{size}f", *[value] * size))
