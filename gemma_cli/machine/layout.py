"""How large the parts of a model are in llama.cpp: weights by layer, KV cache, compute buffer.

Formulas over a header; nothing is opened. Sources: llama-kv-cache-iswa.cpp for
window layers, llama-model.cpp for which layer an n_gpu_layers count moves.
"""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass, replace
from typing import Any, Literal

from gemma_cli.models.gguf import Header, Tensor

KVType = Literal["f16", "q8_0", "q4_0"]
# Bytes of one block and elements in it (ggml-common.h).
KV_BLOCK: dict[KVType, tuple[int, int]] = {"f16": (2, 1), "q8_0": (34, 32), "q4_0": (18, 32)}

# Tokens evaluated at once. A CPU gains nothing beyond 256 and pays for the
# attention mask (n_ctx x ubatch) and for longer window caches; a GPU gains.
CPU_UBATCH, GPU_UBATCH = 256, 512
# Rows of logits that a batch may ask for: a token and the drafts after it.
OUTPUTS = 16
SMALLEST_CTX = 4096

# What llama.cpp's CPU kernels rearrange (ggml-cpu/repack.cpp), by machine.
_REPACKED = frozenset(("Q4_0", "Q4_K", "Q2_K", "IQ4_NL", "MXFP4"))
_X86 = ("x86_64", "AMD64", "i686")
REPACKED = _REPACKED if platform.machine() in _X86 else _REPACKED | {"Q5_K", "Q6_K", "Q8_0"}

# Floats that the busiest moment of a layer keeps for each token: multiples of
# n_ff, n_embd, query width and all layers' per-layer embeddings. Measured by
# scripts/check_memory.py, which shows how well they hold for each model.
_ACTIVATIONS: dict[str, tuple[float, float, float, float]] = {
    "gemma3n": (3, 12, 0, 0.4),
    "gemma4": (3, 4.8, 0, 1.33),
}
_PLAIN = (3.0, 3.0, 1.0, 0.0)
_EXPERT_ROWS, _ROUTING_ROWS = 2, 1.45  # of n_embd, a used expert and beside them


@dataclass(frozen=True, slots=True)
class Parts:
    """Bytes of a model's weights by where they can go.

    host: input embeddings, which never leave the host. in_file: per-layer
    embeddings that may be read from the file row by row. output: what the first
    offloaded layer brings, a copy of a tied embedding included. shared: what of
    output is the host's own memory while nothing is offloaded. layers: the
    others, without experts. largest: of the tensors of all layers.
    """

    host: int
    in_file: int
    output: int
    shared: int
    layers: tuple[int, ...]
    experts: tuple[int, ...]
    largest: int


def parts_of(header: Header) -> Parts:
    """Sort the tensors as llama.cpp does."""
    layers, experts = [0] * header.n_layers, [0] * header.n_layers
    host = in_file = output = largest = 0
    embedding: Tensor | None = None
    for tensor in header.tensors:
        block = re.match(r"blk\.(\d+)\.", tensor.name)
        if block and int(block[1]) < header.n_layers:
            kind = experts if "_exps." in tensor.name else layers
            kind[int(block[1])] += tensor.bytes
            largest = max(largest, tensor.bytes)
        elif tensor.name == "token_embd.weight":
            embedding = tensor
        elif tensor.name == "per_layer_token_embd.weight":
            in_file += tensor.bytes
        elif tensor.name.startswith("per_layer_") and header.n_layers:
            layers[0] += tensor.bytes
        elif tensor.name.startswith(("output", "altup_")):
            output += tensor.bytes
        else:
            host += tensor.bytes
    size = embedding.bytes if embedding else 0
    # The CPU's rearranged copy of a tied embedding is for the output alone.
    copied = embedding is not None and embedding.type in REPACKED
    tied = not any(tensor.name == "output.weight" for tensor in header.tensors)
    return Parts(
        host=host + size,
        in_file=in_file,
        output=output + (size if tied else 0),
        shared=size if tied and not copied else 0,
        layers=tuple(layers),
        experts=tuple(experts),
        largest=largest,
    )


def kv_of_layers(header: Header, n_ctx: int, kv_type: KVType, ubatch: int) -> list[int]:
    """Bytes of KV cache of each layer for one sequence of n_ctx tokens.

    Full-attention layers keep n_ctx cells; window layers min(n_ctx, window +
    ubatch); both padded to 256. The last shared_kv_layers keep none.
    """
    owners = header.n_layers - header.shared_kv_layers
    size, elements = KV_BLOCK[kv_type]
    sizes = [0] * header.n_layers
    for layer in range(owners):
        local = is_local(header, layer)
        width = sum(head_widths(header, local)) * header.n_head_kv[layer]
        sizes[layer] = kv_cells(header, n_ctx, ubatch, local) * width * size // elements
    return sizes


def is_local(header: Header, layer: int) -> bool:
    """Whether a layer sees a window only."""
    return bool(header.sliding_window) and header.sliding_pattern[layer]


def kv_cells(header: Header, n_ctx: int, ubatch: int, local: bool) -> int:
    """Tokens that the KV cache of a window layer, or of another one, has room for."""
    full = _pad(n_ctx)
    return _pad(min(full, header.sliding_window + min(ubatch, n_ctx))) if local else full


def kv_source(header: Header, layer: int) -> int:
    """The layer whose KV cache a layer reads: its own, or for the last shared_kv_layers
    that of the last window or full layer that has one."""
    owners = header.n_layers - header.shared_kv_layers
    return layer if layer < owners else owners - (2 if is_local(header, layer) else 1)


def kv_bytes(
    header: Header, n_ctx: int, kv_type: KVType, layers: range, ubatch: int = CPU_UBATCH
) -> int:
    """The same, of some layers together."""
    sizes = kv_of_layers(header, n_ctx, kv_type, ubatch)
    return sum(sizes[layer] for layer in layers)


def compute_bytes(header: Header, n_ctx: int, ubatch: int = CPU_UBATCH) -> int:
    """llama.cpp's compute buffer where all layers and the output are on the host.

    With flash attention; right to 2 % or 16 MiB for every Gemma.
    """
    ubatch = min(ubatch, n_ctx)
    floats = _activations(header)
    mask = mask_bytes(header, n_ctx, ubatch)
    logits = 4 * header.n_vocab * min(OUTPUTS, ubatch)
    return max(mask + int(4 * ubatch * floats), logits + 8 * ubatch * header.n_embd)


def complete(header: Header) -> tuple[Header, tuple[str, ...]]:
    """The header with a cautious value for each number it lacks, and what was assumed."""
    notes = []
    changes: dict[str, Any] = {}
    if not header.n_ctx_train:
        changes["n_ctx_train"] = SMALLEST_CTX
        notes.append(f"context_length is missing: planned for {SMALLEST_CTX:,} tokens")
    widths = [t.shape[1] for t in header.tensors if ".ffn_up." in t.name and len(t.shape) > 1]
    if not header.n_ff:
        changes["n_ff"] = max(widths, default=4 * header.n_embd)
        notes.append(f"feed_forward_length is missing: taken as {changes['n_ff']:,}")
    if not header.n_head or not header.head_dim_k:
        changes |= {"n_head": 1, "head_dim_k": header.n_embd, "head_dim_v": header.n_embd}
        changes["n_head_kv"] = (1,) * header.n_layers
        notes.append("attention.head_count is missing: a full-width KV cache is planned")
    key = f"{header.architecture}."
    return replace(header, **changes), tuple(f"{key}{note}" for note in notes)


def _activations(header: Header) -> float:
    query = header.n_head * header.head_dim_k
    ff, embd, q, per_layer = _ACTIVATIONS.get(header.architecture, _PLAIN)
    floats = ff * header.n_ff + embd * header.n_embd + q * query
    floats += per_layer * header.n_embd_per_layer * header.n_layers
    if header.n_expert_used:
        rows = _EXPERT_ROWS * header.n_expert_used + _ROUTING_ROWS
        floats = max(floats, rows * header.n_embd)
    return floats + 10  # positions, indices


def mask_bytes(header: Header, n_ctx: int, ubatch: int) -> int:
    """Attention masks: one for the layers with a window, one for the others."""
    size = 0
    windows = {is_local(header, layer) for layer in range(header.n_layers)}
    if True in windows:
        size += 2 * ubatch * _pad(min(n_ctx, header.sliding_window + ubatch))
    if False in windows:
        size += 2 * ubatch * _pad(n_ctx)
    return size


def head_widths(header: Header, local: bool) -> tuple[int, int]:
    """Elements of K and of V that one KV head keeps for a token."""
    if local and header.head_dim_k_swa is not None and header.head_dim_v_swa is not None:
        return header.head_dim_k_swa, header.head_dim_v_swa
    return header.head_dim_k, header.head_dim_v


def _pad(cells: int) -> int:
    return -(-cells // 256) * 256
