"""What a model that lies on several devices takes beyond its parts: copies of what crosses over.

Formulas over a header, as in layout.py. Sources: ggml-backend.cpp for copies
of a split's inputs, llama-context.cpp for when batches overlap. Measured by
scripts/check_offload.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from gemma_cli.machine.layout import GPU_UBATCH, OUTPUTS, compute_bytes, mask_bytes
from gemma_cli.models.gguf import Header

# Where several GPUs hold everything, llama.cpp lets them work on batches one
# after another and keeps the inputs of as many (GGML_SCHED_MAX_COPIES).
BATCHES = 4
# Rows of n_embd for each token beside the masks: on the GPU that the host feeds,
# on one that another GPU feeds, on the host.
_FIRST_ROWS, _LATER_ROWS, _HOST_ROWS = 3, 7, 3
# The same where the output is alone on a GPU, without and with overlapping
# batches: only these generations still have a row for each token there.
_OUTPUT_ROWS = {"gemma4": (2, 5), "gemma3n": (14, 55)}
# Gemma 3n hands four streams on: more rows where they leave, and where they arrive.
_LEAVING_ROWS, _ARRIVING_ROWS = {"gemma3n": 36}, {"gemma3n": 23}


def gpu_compute(
    header: Header,
    n_ctx: int,
    kv: Sequence[int],
    layers: range,
    *,
    overlapping: bool = False,
    later: bool = False,
    hands_on: bool = False,
    for_host: bool = False,
) -> int:
    """Compute buffer of a GPU that holds these layers; an empty range: the output alone.

    kv: bytes of each layer's cache. overlapping: whether batches do. later,
    hands_on: whether another GPU comes before it, and after it. for_host: it
    computes long batches of the host's layers too, and needs what they need.
    """
    logits = 4 * header.n_vocab * OUTPUTS
    ubatch = min(GPU_UBATCH, n_ctx)
    row = 4 * ubatch * header.n_embd
    if not layers and not for_host:
        rows = _OUTPUT_ROWS.get(header.architecture, (0, 0)) if header.n_embd_per_layer else (0, 0)
        return logits + rows[overlapping] * row
    every = range(header.n_layers)
    masks = mask_bytes(header, n_ctx, ubatch, every if for_host else layers)
    absent = mask_bytes(header, n_ctx, ubatch, every) - masks
    size = max(compute_bytes(header, n_ctx, ubatch) - absent, logits)
    read = sum(kv_read(header, kv, layer, layers.start) for layer in layers)
    if not overlapping:
        return size + read
    rows_kept = _LATER_ROWS + _ARRIVING_ROWS.get(header.architecture, 0) if later else _FIRST_ROWS
    rows_kept += _LEAVING_ROWS.get(header.architecture, 0) if hands_on else 0
    per_layer = 4 * ubatch * header.n_embd_per_layer * header.n_layers
    size += rows_kept * row + BATCHES * (per_layer + read)
    return size + (BATCHES - 1) * masks


def host_overlap(header: Header, n_ctx: int) -> int:
    """What the host's compute buffer takes more where batches overlap on the GPUs."""
    ubatch = min(GPU_UBATCH, n_ctx)
    masks = mask_bytes(header, n_ctx, ubatch, range(header.n_layers))
    return (BATCHES - 1) * masks + 4 * _HOST_ROWS * ubatch * header.n_embd


def kv_read(header: Header, kv: Sequence[int], layer: int, start: int) -> int:
    """Bytes of KV cache that a layer reads of one before start, on another device.

    The last shared_kv_layers have no cache of their own: they read that of the
    last window or full layer that has one, and across devices it is copied.
    """
    owners = header.n_layers - header.shared_kv_layers
    if layer < owners:
        return 0
    window = bool(header.sliding_window) and header.sliding_pattern[layer]
    source = owners - (2 if window else 1)
    return kv[source] if source < start else 0
