"""The memory plan: what of a model goes where, and how large a context can be.

Pure: values in, a Plan out. The layout rules are llama.cpp's own
(llama-kv-cache-iswa.cpp for window layers, llama-model.cpp for which layer an
n_gpu_layers count moves). The compute buffer is an upper estimate.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from gemma_cli.errors import DoesNotFitError, UsageError
from gemma_cli.machine.devices import Device, Machine
from gemma_cli.models.gguf import Header

KVType = Literal["f16", "q8_0", "q4_0"]
# Bytes of one block and elements in it (ggml-common.h).
KV_BLOCK: dict[KVType, tuple[int, int]] = {"f16": (2, 1), "q8_0": (34, 32), "q4_0": (18, 32)}

# Tokens evaluated at once. A CPU gains nothing beyond 256 and pays for the
# attention mask (n_ctx x ubatch) and for longer window caches; a GPU gains.
CPU_UBATCH, GPU_UBATCH = 256, 512
# Rows of logits that a batch may ask for: a token and the drafts after it.
OUTPUTS = 16
COMFORTABLE_CTX = 32768
SMALLEST_CTX = 4096
_MIB = 1 << 20
_HOST_MARGIN = 256 * _MIB
_GPU_MARGIN = 1024 * _MIB
_MOST_FOR_CHECKPOINTS = 1024 * _MIB


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user asked for; None leaves the choice to the plan.

    n_ctx: tokens, or "max" for all that the model was trained on. gpu_layers
    counts as llama.cpp's n_gpu_layers does: layers + 1 is everything.
    beyond_training: n_ctx may be more than the model was trained on.
    """

    n_ctx: int | Literal["max"] | None = None
    gpu_layers: int | Literal["all"] | None = None
    threads: int | None = None
    kv_type: KVType = "f16"
    beyond_training: bool = False


@dataclass(frozen=True, slots=True)
class Share:
    """What one device will hold, in bytes."""

    device: Device
    weights: int
    kv: int
    compute: int

    @property
    def needed(self) -> int:
        return self.weights + self.kv + self.compute


@dataclass(frozen=True, slots=True)
class Plan:
    """How to load a model here. shares: the host first, then the GPUs together.

    checkpoint_bytes: of host memory for copies of window layers to go back to.
    """

    n_ctx: int
    n_ctx_max: int
    n_layers: int
    gpu_layers: int
    kv_type: KVType
    ubatch: int
    threads: int
    shares: tuple[Share, ...]
    why: str
    checkpoint_bytes: int = 0


def plan(header: Header, machine: Machine, wishes: Wishes) -> Plan:
    """Choose n_gpu_layers and n_ctx; raise DoesNotFitError when memory cannot hold the model.

    Everything goes to the GPU if it fits, else as many layers as fit beside the
    KV cache. The context is the largest halving of min(trained, 32768) that
    fits, never silently under 4096.
    """
    sizes = _context_sizes(header, wishes)
    candidate = _plan_for(header, machine, wishes, sizes[0])
    for n_ctx in sizes[1:]:
        if _fits(candidate):
            break
        candidate = _plan_for(header, machine, wishes, n_ctx)
    if not _fits(candidate):
        raise _does_not_fit(candidate, header)
    host = candidate.shares[0]
    spare = host.device.free - host.needed - _HOST_MARGIN
    return replace(
        candidate,
        why=_why(candidate, machine, wishes),
        checkpoint_bytes=max(0, min(_MOST_FOR_CHECKPOINTS, spare // 2)),
    )


def kv_bytes(
    header: Header, n_ctx: int, kv_type: KVType, layers: range, ubatch: int = CPU_UBATCH
) -> int:
    """Bytes of the KV cache of some layers for one sequence of n_ctx tokens.

    Full-attention layers keep n_ctx cells; window layers min(n_ctx, window +
    ubatch); both padded to 256. The last shared_kv_layers keep none.
    """
    owners = header.n_layers - header.shared_kv_layers
    window_cells = _pad(min(n_ctx, header.sliding_window + ubatch))
    size, elements = KV_BLOCK[kv_type]
    total = 0
    for layer in layers:
        if layer >= owners:
            continue
        local = bool(header.sliding_window) and header.sliding_pattern[layer]
        dims = _head_dims(header, local) * header.n_head_kv[layer]
        cells = window_cells if local else _pad(n_ctx)
        total += cells * dims * size // elements
    return total


def compute_bytes(header: Header, n_ctx: int, ubatch: int = CPU_UBATCH) -> int:
    """Upper estimate of llama.cpp's compute buffer with flash attention and OUTPUTS output rows."""
    heads = header.n_head * header.head_dim_k
    activations = ubatch * 4 * (3 * header.n_ff + 4 * header.n_embd + 3 * heads)
    mask = 2 * n_ctx * ubatch * 2
    return activations + mask + 4 * header.n_vocab * OUTPUTS


def _head_dims(header: Header, local: bool) -> int:
    """Elements of K and V together that one KV head keeps for a token."""
    if local and header.head_dim_k_swa is not None and header.head_dim_v_swa is not None:
        return header.head_dim_k_swa + header.head_dim_v_swa
    return header.head_dim_k + header.head_dim_v


def _pad(cells: int) -> int:
    return -(-cells // 256) * 256


def _context_sizes(header: Header, wishes: Wishes) -> list[int]:
    """The context sizes to try, largest first; one only when the user named it."""
    trained = header.n_ctx_train
    if wishes.n_ctx == "max":
        return [trained]
    if wishes.n_ctx is not None:
        if wishes.n_ctx > trained and not wishes.beyond_training:
            raise UsageError(
                f"--ctx {wishes.n_ctx} is more than the {trained} tokens the model was trained on",
                f"use --ctx max for {trained}; --ctx-beyond-training allows more, "
                "and answers get worse out there",
            )
        return [wishes.n_ctx]
    size = min(trained, COMFORTABLE_CTX)
    sizes = [size]
    while size // 2 >= SMALLEST_CTX:
        size //= 2
        sizes.append(size)
    return sizes


def _plan_for(header: Header, machine: Machine, wishes: Wishes, n_ctx: int) -> Plan:
    gpu_layers = _gpu_layers(header, machine.gpus, wishes, n_ctx)
    return Plan(
        n_ctx=n_ctx,
        n_ctx_max=header.n_ctx_train,
        n_layers=header.n_layers,
        gpu_layers=gpu_layers,
        kv_type=wishes.kv_type,
        ubatch=GPU_UBATCH if gpu_layers else CPU_UBATCH,
        threads=wishes.threads or machine.threads,
        shares=_shares(header, machine, wishes.kv_type, n_ctx, gpu_layers),
        why="",
    )


def _gpu_layers(header: Header, gpus: Sequence[Device], wishes: Wishes, n_ctx: int) -> int:
    everything = header.n_layers + 1
    if wishes.gpu_layers == "all":
        return everything if gpus else 0
    if wishes.gpu_layers is not None:
        if wishes.gpu_layers > everything:
            raise UsageError(
                f"--gpu-layers {wishes.gpu_layers}: this model has {everything} "
                f"({header.n_layers} layers and the output)",
                "use --gpu-layers all",
            )
        return wishes.gpu_layers if gpus else 0
    room = sum(gpu.free - _GPU_MARGIN for gpu in gpus)
    for count in range(everything if gpus else 0, 0, -1):
        if _gpu_share(header, wishes.kv_type, n_ctx, count) <= room:
            return count
    return 0


def _gpu_share(header: Header, kv_type: KVType, n_ctx: int, count: int) -> int:
    first = header.n_layers + 1 - count
    return (
        _gpu_weights(header, count)
        + kv_bytes(header, n_ctx, kv_type, range(first, header.n_layers), GPU_UBATCH)
        + compute_bytes(header, n_ctx, GPU_UBATCH)
    )


def _gpu_weights(header: Header, count: int) -> int:
    """Bytes that n_gpu_layers = count moves: the output first, then the last layers.

    A tied embedding stays on the host and is copied, so it counts in both places.
    """
    if count == 0:
        return 0
    first = header.n_layers + 1 - count
    embedding = output = layers = 0
    for tensor in header.tensors:
        block = re.match(r"blk\.(\d+)\.", tensor.name)
        if block:
            layers += tensor.bytes if int(block[1]) >= first else 0
        elif tensor.name == "token_embd.weight":
            embedding = tensor.bytes
        elif tensor.name.startswith("output"):
            output += tensor.bytes
    tied = not any(tensor.name == "output.weight" for tensor in header.tensors)
    return layers + output + (embedding if tied else 0)


def _shares(
    header: Header, machine: Machine, kv_type: KVType, n_ctx: int, gpu_layers: int
) -> tuple[Share, ...]:
    first = header.n_layers + 1 - gpu_layers if gpu_layers else header.n_layers
    moved = _gpu_weights(header, gpu_layers)
    tied = not any(tensor.name == "output.weight" for tensor in header.tensors)
    embedding = next((t.bytes for t in header.tensors if t.name == "token_embd.weight"), 0)
    copied = embedding if tied and gpu_layers else 0
    ubatch = GPU_UBATCH if gpu_layers else CPU_UBATCH
    compute = compute_bytes(header, n_ctx, ubatch)
    host = Share(
        machine.host,
        weights=header.tensor_bytes - moved + copied,
        kv=kv_bytes(header, n_ctx, kv_type, range(first), ubatch),
        compute=compute,
    )
    if not machine.gpus:
        return (host,)
    gpus = Device(
        name=" + ".join(gpu.name for gpu in machine.gpus),
        kind=machine.gpus[0].kind,
        total=sum(gpu.total for gpu in machine.gpus),
        free=sum(gpu.free for gpu in machine.gpus),
    )
    kv = kv_bytes(header, n_ctx, kv_type, range(first, header.n_layers), ubatch)
    return (host, Share(gpus, weights=moved, kv=kv, compute=compute if gpu_layers else 0))


def _fits(candidate: Plan) -> bool:
    host = candidate.shares[0]
    return host.needed + _HOST_MARGIN <= host.device.free


def _why(chosen: Plan, machine: Machine, wishes: Wishes) -> str:
    if not machine.gpus:
        where = "on the CPU: this build of llama.cpp sees no GPU"
    elif chosen.gpu_layers == chosen.n_layers + 1:
        where = "all layers on the GPU"
    else:
        where = f"{chosen.gpu_layers} of {chosen.n_layers + 1} layers on the GPU"
    size = "as asked" if wishes.n_ctx else f"of {chosen.n_ctx_max} trained"
    return f"{where}; context {chosen.n_ctx} tokens, {size}"


def _does_not_fit(candidate: Plan, header: Header) -> DoesNotFitError:
    host = candidate.shares[0]
    return DoesNotFitError(
        f"{header.name or 'the model'} needs {_gib(host.needed + _HOST_MARGIN)} GiB of memory "
        f"with a context of {candidate.n_ctx} tokens, and {_gib(host.device.free)} GiB are free "
        f"(weights {_gib(host.weights)}, KV cache {_gib(host.kv)}, compute {_gib(host.compute)})",
        "try a smaller context (--ctx 4096), a smaller quantization (gemma pull NAME:q4_0) "
        "or a smaller Gemma (gemma list --available)",
    )


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.1f}"
