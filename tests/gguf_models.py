"""Models that llama.cpp loads, made from nothing: tiny ones with weights, huge ones without."""

from __future__ import annotations

import random
import struct
from pathlib import Path

from tests.gguf_files import F32, Q8_0, TensorSpec, Value, write_gguf

# An SPM vocabulary needs its special tokens, the bytes, and the letters.
_SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_WORDS = [*"abcdefghijklmnopqrstuvwxyz0123456789.,?!\n", "▁", "▁the", "▁a", "he", "in", "er", "an"]
TOKENS = [*_SPECIAL, *_BYTES, *_WORDS]
_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6  # token types (llama.h)


def gemma3_metadata(
    *,
    layers: int = 6,
    embedding: int = 64,
    feed_forward: int = 128,
    heads: int = 4,
    kv_heads: int = 1,
    head_size: int = 32,
    window: int = 512,
    context: int = 32768,
    tokens: int = len(TOKENS),
) -> dict[str, Value]:
    """A complete Gemma 3's metadata; tokens beyond the built-in ones are "<unusedN>"."""
    texts = TOKENS + [f"<unused{i}>" for i in range(tokens - len(TOKENS))]
    kinds = [_CONTROL] * len(_SPECIAL) + [_BYTE] * 256 + [_NORMAL] * (len(texts) - 262)
    kinds[3] = _UNKNOWN
    return {
        "general.architecture": "gemma3",
        "general.type": "model",
        "general.name": "Built Gemma",
        "general.file_type": 7,
        "gemma3.block_count": layers,
        "gemma3.context_length": context,
        "gemma3.embedding_length": embedding,
        "gemma3.feed_forward_length": feed_forward,
        "gemma3.attention.head_count": heads,
        "gemma3.attention.head_count_kv": kv_heads,
        "gemma3.attention.key_length": head_size,
        "gemma3.attention.value_length": head_size,
        "gemma3.attention.layer_norm_rms_epsilon": 1e-6,
        "gemma3.attention.sliding_window": window,
        "gemma3.rope.freq_base": 1e6,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": texts,
        "tokenizer.ggml.scores": [-float(i) for i in range(len(texts))],
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.unknown_token_id": 3,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
    }


def gemma3_tensors(metadata: dict[str, Value], kind: int = F32) -> list[TensorSpec]:
    """The tensors that such a model has, norms in F32; no data."""

    def number(key: str) -> int:
        value = metadata[f"gemma3.{key}"]
        assert isinstance(value, int)
        return value

    texts = metadata["tokenizer.ggml.tokens"]
    assert isinstance(texts, list)
    embd, ff = number("embedding_length"), number("feed_forward_length")
    size = number("attention.key_length")
    q, kv = (size * number(f"attention.head_count{part}") for part in ("", "_kv"))
    tensors = [
        TensorSpec("token_embd.weight", (embd, len(texts)), kind),
        TensorSpec("output_norm.weight", (embd,)),
    ]
    for layer in range(number("block_count")):
        shapes = _layer_shapes(embd, ff, q, kv, size)
        tensors += [
            TensorSpec(f"blk.{layer}.{name}.weight", shape, kind if len(shape) > 1 else F32)
            for name, shape in shapes.items()
        ]
    return tensors


def _layer_shapes(embd: int, ff: int, q: int, kv: int, head: int) -> dict[str, tuple[int, ...]]:
    """What a layer has since Gemma 3."""
    return {
        "attn_norm": (embd,),
        "attn_q": (embd, q),
        "attn_k": (embd, kv),
        "attn_v": (embd, kv),
        "attn_output": (q, embd),
        "attn_q_norm": (head,),
        "attn_k_norm": (head,),
        "post_attention_norm": (embd,),
        "ffn_norm": (embd,),
        "ffn_gate": (embd, ff),
        "ffn_up": (embd, ff),
        "ffn_down": (ff, embd),
        "post_ffw_norm": (embd,),
    }


def with_noise(tensors: list[TensorSpec], seed: int = 1) -> list[TensorSpec]:
    """F32 tensors filled with small random numbers; norms with ones."""
    chance = random.Random(seed)

    def filled(tensor: TensorSpec) -> TensorSpec:
        assert tensor.kind == F32
        count = tensor.bytes // 4
        values = [chance.gauss(0, 0.1) if len(tensor.shape) > 1 else 1.0 for _ in range(count)]
        return TensorSpec(tensor.name, tensor.shape, F32, struct.pack(f"<{count}f", *values))

    return [filled(tensor) for tensor in tensors]


def tiny_gemma(path: Path, **shape: int) -> Path:
    """A Gemma 3 of a few hundred thousand random weights that evaluates tokens."""
    metadata = gemma3_metadata(**shape)
    return write_gguf(path, metadata, with_noise(gemma3_tensors(metadata)))


def gemma3_27b_without_weights(path: Path) -> Path:
    """The header of a Gemma 3 27B in Q8_0 over a sparse file (28 GB long, 8 MB on disk)."""
    metadata = gemma3_metadata(
        layers=62,
        embedding=5376,
        feed_forward=21504,
        heads=32,
        kv_heads=16,
        head_size=128,
        window=1024,
        context=131072,
        tokens=262144,
    )
    return write_gguf(path, metadata, gemma3_tensors(metadata, Q8_0))


def gemma4_with_per_layer_embeddings(path: Path, size: int) -> Path:
    """A Gemma 4 of two layers, all zeros, whose every token has `size` numbers for each layer."""
    embd, ff, head, layers = 64, 64, 32, 2
    metadata = {
        key.replace("gemma3", "gemma4"): value for key, value in gemma3_metadata().items()
    } | {
        "general.architecture": "gemma4",
        "gemma4.block_count": layers,
        "gemma4.embedding_length": embd,
        "gemma4.embedding_length_per_layer_input": size,
        "gemma4.feed_forward_length": ff,
        "gemma4.attention.head_count": 1,
        "gemma4.attention.key_length_swa": head,
        "gemma4.attention.value_length_swa": head,
        "gemma4.attention.sliding_window_pattern": [True, False],
        "gemma4.attention.shared_kv_layers": 0,
    }
    tensors = [
        TensorSpec("token_embd.weight", (embd, len(TOKENS))),
        TensorSpec("output_norm.weight", (embd,)),
        TensorSpec("rope_freqs.weight", (head // 2,)),
        TensorSpec("per_layer_token_embd.weight", (size * layers, len(TOKENS))),
        TensorSpec("per_layer_model_proj.weight", (embd, size * layers)),
        TensorSpec("per_layer_proj_norm.weight", (size,)),
    ]
    for layer in range(layers):
        shapes = _layer_shapes(embd, ff, head, head, head) | {
            "inp_gate": (embd, size),
            "proj": (size, embd),
            "post_norm": (embd,),
        }
        tensors += [TensorSpec(f"blk.{layer}.{n}.weight", shape) for n, shape in shapes.items()]
    return write_gguf(path, metadata, tensors)
