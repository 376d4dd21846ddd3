"""What to say of a model that does not fit: figures, and commands that would."""

from __future__ import annotations

from collections.abc import Sequence

from gemma_cli.errors import DoesNotFitError
from gemma_cli.machine.plans import HOST_MARGIN, Plan, Share, Wishes
from gemma_cli.machine.sizes import memory_size
from gemma_cli.models.gguf import Header


def does_not_fit(
    header: Header, closest: Plan, fitting: Sequence[Wishes], wishes: Wishes
) -> DoesNotFitError:
    """closest: the smallest plan that was tried. fitting: wishes like it that do fit."""
    name = header.name or "the model"
    tight = [s for s in closest.shares[1:] if s.needed and s.left < wishes.gpu_margin]
    share = tight[0] if tight else _in_host_memory(closest)
    margin = wishes.gpu_margin if tight else HOST_MARGIN
    where = f"on {share.device.name} " if tight else ""
    free = memory_size(share.device.free)
    return DoesNotFitError(
        f"{name} needs {memory_size(share.needed + margin)} of memory {where}"
        f"with a context of {closest.n_ctx:,} tokens, and {free} are free "
        f"(weights {memory_size(share.weights)}, KV cache {memory_size(share.kv)}, "
        f"compute {memory_size(share.compute)}, left to the system {memory_size(margin)})",
        _hint(fitting, wishes),
    )


def _in_host_memory(plan: Plan) -> Share:
    """What the host holds, and the GPUs whose memory is the host's."""
    shares = [plan.host, *(share for share in plan.shares[1:] if share.device.unified)]
    return Share(
        plan.host.device,
        weights=sum(share.weights for share in shares),
        kv=sum(share.kv for share in shares),
        compute=sum(share.compute for share in shares),
    )


def _hint(fitting: Sequence[Wishes], wishes: Wishes) -> str:
    ways = []
    for other in fitting:
        if other.kv_type != wishes.kv_type:
            ways.append(f"a quantized KV cache fits: --kv-type {other.kv_type}")
        elif other.n_ctx != wishes.n_ctx:
            ways.append(f"a smaller context fits: --ctx {other.n_ctx}")
        else:
            ways.append("fewer layers on the GPU fit: --gpu-layers auto")
    ways.append("all sizes of Gemma: gemma list --available")
    return "; ".join(ways) + "; --force tries it all the same"
