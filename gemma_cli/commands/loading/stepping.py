"""One step below a plan that could not be carried out: memory was less than it seemed."""

from __future__ import annotations

from dataclasses import replace

from gemma_cli.errors import DoesNotFitError
from gemma_cli.machine.devices import Device, Machine
from gemma_cli.machine.memory import SMALLEST_CTX, Plan, Wishes, plan
from gemma_cli.models.gguf import Header

# Of what a GPU was to hold, so much is tried again.
_PART = 3, 4
_SMALLEST_ASKED = 256  # llama.cpp pads a context to this


def step_down(
    made: Plan, header: Header, machine: Machine, wishes: Wishes, *, on_gpu: bool
) -> Plan | None:
    """The next smaller plan, None where there is none. Pure: of what was known at planning.

    Where a GPU's memory failed, it gets a quarter less to hold and the context
    stays; else, and where the host has no room for that, the context is halved,
    not below 4,096 tokens unless so few were asked for. `why` names what is
    tried, and what was asked for in its place.
    """
    fewer = _less_on_gpus(made, header, machine, wishes) if on_gpu else None
    return fewer or _half_the_context(made, header, machine, wishes)


def _less_on_gpus(made: Plan, header: Header, machine: Machine, wishes: Wishes) -> Plan | None:
    part, whole = _PART
    room = {
        (share.device.id, share.device.name): share.needed * part // whole + wishes.gpu_margin
        for share in made.shares[1:]
        if share.layers
    }

    def with_less(gpu: Device) -> Device:
        free = room.get((gpu.id, gpu.name), 0)
        return replace(gpu, free=free, total=max(gpu.total, free))

    less = replace(machine, gpus=tuple(map(with_less, machine.gpus)))
    try:
        smaller = plan(header, less, _kept(wishes, made.n_ctx))
    except DoesNotFitError:
        return None
    what = f"{smaller.gpu_layers} of {made.n_layers + 1} layers on the GPU"
    if smaller.host_experts:
        what += f", the experts of {smaller.host_experts} of them on the host"
    asked = " that --gpu-layers asked for" if wishes.gpu_layers is not None else ""
    return replace(smaller, why=f"{what}, not the {made.gpu_layers}{asked}")


def _half_the_context(made: Plan, header: Header, machine: Machine, wishes: Wishes) -> Plan | None:
    few_asked = isinstance(wishes.n_ctx, int) and wishes.n_ctx <= SMALLEST_CTX
    half = max(made.n_ctx // 2, _SMALLEST_ASKED if few_asked else SMALLEST_CTX)
    if half >= made.n_ctx:
        return None
    # Smaller than a plan that was good enough to be tried: nothing to refuse.
    kept = replace(_kept(wishes, half), gpu_layers=made.gpu_layers, force=True)
    smaller = plan(header, machine, kept)
    asked = " that --ctx asked for" if wishes.n_ctx is not None else ""
    return replace(smaller, why=f"a context of {half} tokens, not the {made.n_ctx}{asked}")


def _kept(wishes: Wishes, n_ctx: int) -> Wishes:
    return replace(wishes, n_ctx=n_ctx, beyond_training=True, gpu_layers=None)
