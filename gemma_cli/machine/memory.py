"""The memory plan: what of a model goes where, and how large a context can be.

Pure: values in, a Plan out. layout.py has the sizes, graph.py and allocation.py
the compute buffers, offload.py the ways to share layers out, this the choice among them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from gemma_cli.errors import DoesNotFitError, UsageError
from gemma_cli.machine.devices import Device, Machine
from gemma_cli.machine.layout import (
    CPU_UBATCH,
    GPU_UBATCH,
    KV_BLOCK,
    OUTPUTS,
    SMALLEST_CTX,
    KVType,
    Parts,
    complete,
    kv_bytes,
    parts_of,
)
from gemma_cli.machine.offload import Offload, Offloading
from gemma_cli.machine.plans import GPU_MARGIN, HOST_MARGIN, Plan, Share, Wishes
from gemma_cli.machine.refusal import does_not_fit
from gemma_cli.machine.sizes import memory_size
from gemma_cli.models.gguf import Header

__all__ = [
    "GPU_MARGIN",
    "HOST_MARGIN",
    "KV_BLOCK",
    "OUTPUTS",
    "SMALLEST_CTX",
    "KVType",
    "Plan",
    "Share",
    "Wishes",
    "attempt",
    "kv_bytes",
    "layouts",
    "plan",
    "refusal",
    "remaining",
]

COMFORTABLE_CTX = 32768
# With this much a model that is all on the GPU is better than a longer, slower one.
USEFUL_CTX = 8192
_MOST_FOR_CHECKPOINTS = 1 << 30
_SMALLEST_TO_OFFER = 1024
_HIDING = "CUDA_VISIBLE_DEVICES, HIP_VISIBLE_DEVICES or GGML_VK_VISIBLE_DEVICES"
_FIRST_FULL = "on the CPU: the first GPU has too little memory free"
_TOO_DEAR = "on the CPU: with layers on a GPU, the host would need more memory than it has"


def plan(header: Header, machine: Machine, wishes: Wishes) -> Plan:
    """Choose n_gpu_layers and n_ctx; raise DoesNotFitError when memory cannot hold the model.

    Everything goes to the GPU if it fits with a useful context, else as many
    layers as fit beside the KV cache. The context is the largest halving of
    min(trained, 32768) that fits, never silently under 4096.
    """
    made, fits = attempt(header, machine, wishes)
    if not fits and not wishes.force:
        raise refusal(header, machine, wishes, made)
    return made


def refusal(header: Header, machine: Machine, wishes: Wishes, closest: Plan) -> DoesNotFitError:
    """Why the closest plan does not fit, and what would: a second's work where there are GPUs."""
    return does_not_fit(header, closest, _smaller(header, machine, wishes), wishes)


def attempt(header: Header, machine: Machine, wishes: Wishes) -> tuple[Plan, bool]:
    """The plan to take and True; where none fits the smallest that was tried, and False."""
    tried, chosen = _choice(header, machine, wishes)
    too_dear = False
    if chosen is None and machine.gpus and wishes.gpu_layers is None:
        # A GPU can cost the host memory: a weight is there twice, or not left in the file.
        too_dear = any(candidate.gpu_layers for candidate in tried)
        on_host, chosen = _choice(header, machine, replace(wishes, gpu_layers=0))
        tried = tried if chosen is None else on_host
    made = chosen or tried[-1]
    hindered = _hindered(header, machine, wishes, made)
    where = _where(made, machine, wishes)
    if not made.gpu_layers and (too_dear or hindered):
        where = _TOO_DEAR if too_dear else _FIRST_FULL
    spare = made.host.left - HOST_MARGIN
    made = replace(
        made,
        why=f"{where}; {_why_that_context(made, tried, wishes)}",
        checkpoint_bytes=max(0, min(_MOST_FOR_CHECKPOINTS, spare // 2)),
        notes=(*made.notes, *hindered),
    )
    return made, chosen is not None


def _choice(header: Header, machine: Machine, wishes: Wishes) -> tuple[list[Plan], Plan | None]:
    """(what was tried, the one of them to take; None where none fits)"""
    tried: list[Plan] = []
    chosen = None
    for candidate in layouts(header, machine, wishes):
        tried.append(candidate)
        if not candidate.fits(wishes.gpu_margin):
            continue
        if chosen is None or (candidate.all_on_gpu and candidate.n_ctx >= USEFUL_CTX):
            chosen = candidate
        if chosen.all_on_gpu or not _weights_fit(header, machine, wishes):
            break
    return tried, chosen


def _weights_fit(header: Header, machine: Machine, wishes: Wishes) -> bool:
    """Whether GPUs hold all weights, if nothing else: a smaller context may do, then."""
    parts = parts_of(header)
    weights = parts.output + sum(parts.layers) + sum(parts.experts)
    return weights <= sum(max(0, gpu.free - wishes.gpu_margin) for gpu in machine.gpus)


def layouts(header: Header, machine: Machine, wishes: Wishes) -> Iterator[Plan]:
    """The plans to choose from, largest context first, whether they fit or not.

    Each takes milliseconds where GPUs have some of the layers.
    """
    whole, notes = complete(header)
    parts = parts_of(whole)
    machine = replace(machine, gpus=_used_gpus(machine.gpus))
    for n_ctx in _context_sizes(whole, wishes):
        yield replace(_layout(whole, parts, machine, wishes, n_ctx), notes=notes)


def _used_gpus(gpus: tuple[Device, ...]) -> tuple[Device, ...]:
    """Those that llama.cpp takes: an integrated one only where there is no other."""
    return tuple(gpu for gpu in gpus if gpu.kind == "gpu") or gpus[:1]


def remaining(machine: Machine, plan: Plan) -> Machine:
    """What a machine still has free beside a plan, for a draft model."""
    needed = {(share.device.id, share.device.name): share.needed for share in plan.shares}

    def beside(device: Device) -> Device:
        taken = needed.get((device.id, device.name), 0)
        return replace(device, free=max(0, device.free - taken))

    return replace(machine, host=beside(machine.host), gpus=tuple(map(beside, machine.gpus)))


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
    sizes = [min(trained, COMFORTABLE_CTX)]
    while sizes[-1] // 2 >= SMALLEST_CTX:
        sizes.append(sizes[-1] // 2)
    return sizes


def _layout(header: Header, parts: Parts, machine: Machine, wishes: Wishes, n_ctx: int) -> Plan:
    offloading = Offloading(header, parts, n_ctx, wishes.kv_type, wishes.beside)
    offload = _offload(header, offloading, machine, wishes)
    return Plan(
        n_ctx=n_ctx,
        n_ctx_max=header.n_ctx_train,
        n_layers=header.n_layers,
        gpu_layers=offload.gpu_layers,
        kv_type=wishes.kv_type,
        ubatch=GPU_UBATCH if offload.gpu_layers else CPU_UBATCH,
        threads=wishes.threads or machine.threads,
        shares=offloading.shares(machine.host, machine.gpus, offload),
        why="",
        host_experts=offload.host_experts,
        in_file=offloading.in_file(offload),
    )


def _offload(header: Header, offloading: Offloading, machine: Machine, wishes: Wishes) -> Offload:
    everything = header.n_layers + 1
    if wishes.gpu_layers not in (None, "all") and int(wishes.gpu_layers) > everything:
        raise UsageError(
            f"--gpu-layers {wishes.gpu_layers}: this model has {everything} "
            f"({header.n_layers} layers and the output)",
            "use --gpu-layers all",
        )
    if not machine.gpus or wishes.gpu_layers == 0:
        return Offload(0, 0, (0,) * len(machine.gpus))
    if wishes.gpu_layers is None:
        return offloading.best(machine, wishes.gpu_margin)
    count = everything if wishes.gpu_layers == "all" else wishes.gpu_layers
    return offloading.asked(machine, count, wishes.gpu_margin)


def _smaller(header: Header, machine: Machine, wishes: Wishes) -> list[Wishes]:
    """Wishes like these that do fit, the least change of each kind: a quantized KV cache, a
    smaller context, the layers left to the plan."""
    kv_types = list(KV_BLOCK)
    contexts: list[int] = []
    size = _context_sizes(complete(header)[0], wishes)[-1]
    while (size := size // 2) >= _SMALLEST_TO_OFFER:
        contexts.append(size)
    kinds = (
        [replace(wishes, kv_type=each) for each in kv_types[kv_types.index(wishes.kv_type) + 1 :]],
        [replace(wishes, n_ctx=each) for each in contexts],
        [replace(wishes, gpu_layers=None)] if wishes.gpu_layers else [],
    )

    def fits(other: Wishes) -> bool:
        return any(c.fits(other.gpu_margin) for c in layouts(header, machine, other))

    found = (next(filter(fits, kind), None) for kind in kinds)
    return [other for other in found if other is not None]


def _why_that_context(chosen: Plan, candidates: Sequence[Plan], wishes: Wishes) -> str:
    """candidates: what was tried, the largest context first."""
    forced = "" if chosen.fits(wishes.gpu_margin) else "; more than fits, as forced"
    reason = _reason(chosen, candidates, wishes)
    return f"context {chosen.n_ctx:,} tokens{reason}{forced}"


def _hindered(header: Header, machine: Machine, wishes: Wishes, chosen: Plan) -> tuple[str, ...]:
    """Said where a full GPU, being the first, keeps the others from use: llama.cpp lets it
    compute long batches of the layers that stay on the host, and that needs room on it."""
    first, *others = _used_gpus(machine.gpus) or (None,)
    if first is None or not others or chosen.gpu_layers or wishes.gpu_layers is not None:
        return ()
    _, better = _choice(header, replace(machine, gpus=tuple(others)), wishes)
    if better is None or not better.gpu_layers:
        return ()
    return (
        f"{first.id or first.name} has too little memory free to take part, and llama.cpp uses the "
        f"other GPUs only with it: hide it ({_HIDING}), and {better.gpu_layers} layers fit on them",
    )


def _reason(chosen: Plan, candidates: Sequence[Plan], wishes: Wishes) -> str:
    if wishes.n_ctx is not None:
        return ", as asked"
    if chosen.n_ctx == chosen.n_ctx_max:
        return ", all that it was trained on"
    before = candidates[: candidates.index(chosen)]
    if not before:
        return f": enough for most, and --ctx takes up to {chosen.n_ctx_max:,}"
    if before[-1].fits(wishes.gpu_margin):
        return ": with more, some layers would stay on the host"
    return f": {before[-1].n_ctx:,} do not fit"


def _where(chosen: Plan, machine: Machine, wishes: Wishes) -> str:
    if not machine.gpus:
        return "on the CPU: no GPU to use"
    asked = ", as asked" if wishes.gpu_layers is not None else ""
    if not chosen.gpu_layers:
        kept = memory_size(wishes.gpu_margin)
        return f"on the CPU{asked or f': no GPU has room for a layer beside {kept} left free'}"
    used = sum(share.layers > 0 for share in chosen.shares[1:])
    everything = chosen.n_layers + 1
    count = "all" if chosen.gpu_layers == everything else f"{chosen.gpu_layers} of {everything}"
    where = f"{count} layers on {f'{used} GPUs' if used > 1 else 'the GPU'}"
    if chosen.host_experts:
        where += f", the experts of {chosen.host_experts} of them on the host"
    return where + asked
