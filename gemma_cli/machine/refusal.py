"""What to say of a model that does not fit: figures, and commands that would."""

from __future__ import annotations

from collections.abc import Sequence

from gemma_cli.errors import DoesNotFitError
from gemma_cli.machine.plans import HOST_MARGIN, Plan, Wishes
from gemma_cli.models.gguf import Header


def does_not_fit(
    header: Header, closest: Plan, fitting: Sequence[Wishes], wishes: Wishes
) -> DoesNotFitError:
    """closest: the smallest plan that was tried. fitting: wishes like it that do fit."""
    name = header.name or "the model"
    tight = [s for s in closest.shares[1:] if s.needed and s.left < wishes.gpu_margin]
    share = tight[0] if tight else closest.host
    margin = wishes.gpu_margin if tight else HOST_MARGIN
    where = f"on {share.device.name} " if tight else ""
    return DoesNotFitError(
        f"{name} needs {_gib(share.needed + margin)} GiB of memory {where}"
        f"with a context of {closest.n_ctx} tokens, and {_gib(share.device.free)} GiB are free "
        f"(weights {_gib(share.weights)}, KV cache {_gib(share.kv)}, "
        f"compute {_gib(share.compute)}, {_gib(margin)} left for the system)",
        _hint(fitting, wishes),
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
    ways.append(
        "a smaller quantization (gemma pull NAME:q4_0) or a smaller Gemma (gemma list --available)"
    )
    return "; ".join(ways) + "; --force tries it all the same"


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.1f}"
