"""Which quantization to take: pure arithmetic on sizes and free memory."""

from __future__ import annotations

from dataclasses import dataclass

from gemma_cli.models.entries import CatalogFile, CatalogModel, Shape

# A context that a conversation with a pasted page or two needs.
USEFUL_CTX = 8192
_UBATCH = 512
# llama.cpp's own working memory beside the compute buffer, and room for others.
_MARGIN = 512 << 20


@dataclass(frozen=True, slots=True)
class Choice:
    """The file to take. needed: bytes in memory with a useful context. fits: whether it does."""

    file: CatalogFile
    needed: int
    fits: bool


def memory_needed(shape: Shape, weights: int, projector: int = 0, n_ctx: int = USEFUL_CTX) -> int:
    """Bytes to hold the weights, the projector, an f16 KV cache of n_ctx tokens and buffers."""
    n_ctx = min(n_ctx, shape.n_ctx_train)
    activations = _UBATCH * 4 * (3 * shape.n_ff + 4 * shape.n_embd)
    return weights + projector + kv_bytes(shape, n_ctx) + activations + 4 * shape.n_vocab + _MARGIN


def kv_bytes(shape: Shape, n_ctx: int) -> int:
    """Bytes of an f16 KV cache: full layers keep n_ctx cells, window layers their window."""
    total = 0
    for layer in range(shape.n_layers - shape.shared_kv_layers):
        window = shape.sliding_pattern[layer]
        cells = min(n_ctx, shape.sliding_window + _UBATCH) if window else n_ctx
        k, v = shape.head_dim_k, shape.head_dim_v
        if window and shape.head_dim_k_swa and shape.head_dim_v_swa:
            k, v = shape.head_dim_k_swa, shape.head_dim_v_swa
        total += cells * (k + v) * shape.n_head_kv[layer] * 2
    return total


def best_file(
    model: CatalogModel, available: int, projector: int = 0, sizes: dict[str, int] | None = None
) -> Choice:
    """The best quantization that fits in `available` bytes, else the smallest one.

    sizes: exact bytes by quantization where they are known better than the
    catalogue does. A file of unknown size is taken only if there is no other.
    """
    choices = [
        Choice(file, needed, needed <= available)
        for file in model.files
        if (weights := (sizes or {}).get(file.quant) or file.planning_size or estimate(model, file))
        and (needed := memory_needed(model.shape, weights, projector))
    ]
    if not choices:
        return Choice(model.files[-1], 0, False)
    return next((c for c in choices if c.fits), min(choices, key=lambda c: c.needed))


def estimate(model: CatalogModel, file: CatalogFile) -> int | None:
    """The size of a file that nobody stated, from a sibling's bits a weight.

    None without one. Good to a fifth: enough to choose, never shown as the size.
    """
    for other in model.files:
        if other.planning_size and _bits(other.quant) and _bits(file.quant):
            return int(other.planning_size * _bits(file.quant) / _bits(other.quant) * 1.1)
    return None


def _bits(quant: str) -> float:
    """About how many bits a weight takes."""
    table = {"Q8_0": 8.5, "Q6_K": 6.56, "Q5_K_M": 5.7, "Q4_K_M": 4.9, "Q4_0": 4.6}
    return table.get(quant.removeprefix("UD-").removeprefix("QAT_"), 0.0)
