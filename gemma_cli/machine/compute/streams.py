"""What Gemma 3n's graph has instead: four streams (AltUp) between its layers, a low-rank
bypass (Laurel), sparse activations. Source: llama.cpp's gemma3n.cpp."""

from __future__ import annotations

from gemma_cli.machine.compute.attention import attention
from gemma_cli.machine.compute.nodes import Building, Node

_STREAMS = 4
_SPARSE_LAYERS = 10


def spread(graph: Building, x: Node) -> Node:
    """The streams, from the embeddings."""
    n_embd, tokens = x.dims
    magnitude = _magnitude(graph, x)
    repeated = graph.op("repeat", (n_embd, tokens, _STREAMS - 1), x)
    added = graph.matmul(graph.weight("altup_proj.weight"), repeated)
    added = _scaled_to(graph, added, magnitude)
    return graph.op("concat", (n_embd, tokens, _STREAMS), x, added)


def merged(graph: Building, x: Node) -> Node:
    """One again, for the output."""
    n_embd, tokens, _ = x.dims
    magnitude = _magnitude(graph, graph.view(x, n_embd, tokens))
    others = graph.view(x, n_embd, tokens, _STREAMS - 1)
    others = graph.matmul(graph.weight("altup_unembd_proj.weight"), others)
    others = _scaled_to(graph, others, magnitude)
    out = graph.view(x, n_embd, tokens)
    for _ in range(_STREAMS - 1):
        out = graph.like("add", out, graph.view(others, n_embd, tokens))
    return graph.like("scale", out)


def streamed_layer(graph: Building, x: Node, layer: int) -> tuple[Node, Node]:
    """A layer up to where its own embeddings join: the corrected streams, and the first of them."""
    n_embd, tokens, _ = x.dims
    predicted = _predicted(graph, x, layer)
    active = graph.view(predicted, n_embd, tokens)
    normed = graph.norm(active, "attn_norm.weight", layer)
    bypass = graph.matmul(graph.weight("laurel_l.weight", layer), normed)
    bypass = graph.matmul(graph.weight("laurel_r.weight", layer), bypass)
    bypass = graph.like("add", graph.norm(bypass, "laurel_post_norm.weight", layer), normed)
    out = attention(graph, normed, layer)
    out = graph.norm(out, "post_attention_norm.weight", layer)
    out = graph.like("add", graph.like("add", out, active), bypass)
    attended = graph.like("scale", out)
    out = _feed_forward(graph, graph.norm(attended, "ffn_norm.weight", layer), layer)
    out = graph.like("add", graph.norm(out, "post_ffw_norm.weight", layer), attended)
    corrected = _corrected(graph, predicted, out, layer)
    first = graph.view(corrected, n_embd, tokens)
    return corrected, graph.like("mul", first, graph.weight("altup_correct_scale.weight", layer))


def joined(graph: Building, corrected: Node, first: Node) -> Node:
    """What a layer hands on: the first stream's addition goes to the others."""
    n_embd, tokens, _ = corrected.dims
    rest = graph.like("add", graph.view(corrected, n_embd, tokens, _STREAMS - 1), first)
    return graph.op("concat", corrected.dims, graph.view(corrected, n_embd, tokens), rest)


def _feed_forward(graph: Building, x: Node, layer: int) -> Node:
    up = graph.matmul(graph.weight("ffn_up.weight", layer), x)
    gate = graph.matmul(graph.weight("ffn_gate.weight", layer), x)
    gate = _largest(graph, gate) if layer < _SPARSE_LAYERS else gate
    out = graph.like("mul", up, graph.like("unary", gate))
    return graph.matmul(graph.weight("ffn_down.weight", layer), out)


def _largest(graph: Building, x: Node) -> Node:
    one = (1, x.dims[1])
    mean = graph.op("mean", one, x)
    spread_out = graph.op("sum_rows", one, graph.like("sqr", graph.like("sub", x, mean)))
    spread_out = graph.like("sqrt", graph.like("scale", spread_out))
    cutoff = graph.like("add", mean, graph.like("scale", spread_out))
    return graph.like("unary", graph.like("sub", x, cutoff))


def _magnitude(graph: Building, x: Node) -> Node:
    return graph.like("sqrt", graph.op("sum_rows", (1, *x.dims[1:]), graph.like("sqr", x)))


def _scaled_to(graph: Building, x: Node, magnitude: Node) -> Node:
    own = _magnitude(graph, x)
    return graph.like("div", graph.like("mul", x, magnitude), own)


def _routes(graph: Building, x: Node, layer: int) -> Node:
    out = graph.like("scale", graph.norm(x, "altup_router_norm.weight", layer))
    return graph.like("unary", graph.matmul(graph.weight("altup_router.weight", layer), out))


def _predicted(graph: Building, x: Node, layer: int) -> Node:
    n_embd, tokens, _ = x.dims
    routes = _routes(graph, graph.view(x, n_embd, tokens), layer)
    mixing = graph.matmul(graph.weight("altup_predict_coef.weight", layer), routes)
    mixing = graph.view(mixing, _STREAMS, _STREAMS, tokens)
    turned = (_STREAMS, n_embd, tokens)
    permuted = graph.op("cont", turned, graph.view(x, *turned))
    out = graph.op("mul_mat", (n_embd, _STREAMS, tokens), permuted, mixing)
    out = graph.op("cont", x.dims, graph.view(out, *x.dims))
    return graph.like("add", out, x)


def _corrected(graph: Building, predicted: Node, active: Node, layer: int) -> Node:
    n_embd, tokens, _ = predicted.dims
    routes = _routes(graph, active, layer)
    change = graph.like("sub", active, graph.view(predicted, n_embd, tokens))
    mixing = graph.matmul(graph.weight("altup_correct_coef.weight", layer), routes)
    mixing = graph.view(graph.like("scale", mixing), tokens, _STREAMS)
    mixing = graph.op("cont", (1, tokens, _STREAMS), mixing)
    change = graph.op("repeat", predicted.dims, change)
    return graph.like("add", graph.like("mul", change, mixing), predicted)
