"""Tokens per second that memory bandwidth allows: an estimate, and an upper one."""

from __future__ import annotations

from gemma_cli.machine.layout import complete, parts_of
from gemma_cli.machine.plans import Plan
from gemma_cli.models.gguf import Header

# Where nothing was measured: two channels of DDR5, and a card of the middle.
ASSUMED_HOST_BANDWIDTH, ASSUMED_GPU_BANDWIDTH = 60e9, 450e9


def weights_read(header: Header, plan: Plan) -> tuple[int, int]:
    """Bytes of weights that each token reads (on the host, on the GPUs): of experts those
    in use, of embeddings a row, which is nothing; as the output a tied one is read whole."""
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
    return int(host), int(gpu)


def tokens_per_second(
    header: Header, plan: Plan, host_bandwidth: float, gpu_bandwidth: float
) -> float:
    """Decoding, if nothing but reading took time: the weights, and half of the KV cache,
    as on the way to a full context."""
    host, gpu = weights_read(header, plan)
    host += plan.host.kv // 2
    gpu += sum(share.kv for share in plan.shares[1:]) // 2
    return 1 / max(host / host_bandwidth + gpu / gpu_bandwidth, 1e-9)
