"""Tokens per second that memory bandwidth allows: an estimate, and an upper one."""

from __future__ import annotations

from gemma_cli.machine.layout import complete, parts_of
from gemma_cli.machine.plans import Plan
from gemma_cli.models.gguf import Header

# Where nothing was measured: two channels of DDR5, and a card of the middle.
ASSUMED_HOST_BANDWIDTH, ASSUMED_GPU_BANDWIDTH = 60e9, 450e9


def decode_bytes(header: Header, plan: Plan) -> tuple[int, int]:
    """Bytes that each token reads (on the host, on the GPUs): weights that take part,
    and half of the KV cache, as on the way to a full context."""
    whole, _ = complete(header)
    parts = parts_of(whole)
    used = whole.n_expert_used / whole.n_expert if whole.n_expert else 1
    first = plan.n_layers + 1 - plan.gpu_layers if plan.gpu_layers else plan.n_layers
    experts = first + plan.host_experts
    host = sum(parts.layers[:first]) + used * sum(parts.experts[:experts])
    gpu = sum(parts.layers[first:]) + used * sum(parts.experts[experts:])
    if plan.gpu_layers:
        gpu += parts.output
    else:
        host += parts.output
    host += plan.host.kv / 2
    gpu += sum(share.kv for share in plan.shares[1:]) / 2
    return int(host), int(gpu)


def tokens_per_second(
    header: Header, plan: Plan, host_bandwidth: float, gpu_bandwidth: float
) -> float:
    """Decoding, if nothing but reading took time."""
    host, gpu = decode_bytes(header, plan)
    return 1 / max(host / host_bandwidth + gpu / gpu_bandwidth, 1e-9)
