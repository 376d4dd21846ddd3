"""The graph that llama.cpp evaluates for a batch of a Gemma, in its order.

Sources: src/models/gemma*.cpp, llama-graph.cpp. The shapes are those of the
header's tensors; allocation.py says what the graph takes on each device.
"""

from __future__ import annotations

from gemma_cli.machine.compute import streams
from gemma_cli.machine.compute.attention import attention
from gemma_cli.machine.compute.nodes import VIEW, Batch, Building, Node, Places
from gemma_cli.machine.layout import OUTPUTS
from gemma_cli.models.gguf import Header

KNOWN = frozenset(("gemma", "gemma2", "gemma3", "gemma3n", "gemma4"))
# Those whose logits pass through tanh.
_CAPPED = frozenset(("gemma2", "gemma3n", "gemma4"))


def evaluation(header: Header, places: Places, batch: Batch) -> Building:
    """All of it. KeyError where the header lacks a tensor that such a Gemma has."""
    graph = Building(header, places, batch)
    tokens = graph.input("tokens", 4 * batch.tokens)
    embedded = graph.weight("token_embd.weight")
    x = graph.op("get_rows", (header.n_embd, batch.tokens), embedded, tokens)
    graph.expand(x)
    # Where embeddings are handed in instead of tokens: allocated, never read.
    graph.expand(graph.input("embeddings", x.size))
    x = graph.like("scale", x)
    own = _own_embeddings(graph, x) if header.n_embd_per_layer else None
    if header.architecture == "gemma3n" and own is not None:
        x = streams.spread(graph, x)
        for layer in range(header.n_layers):
            corrected, first = streams.streamed_layer(graph, x, layer)
            x = streams.joined(graph, corrected, _gated(graph, first, layer, own))
        x = streams.merged(graph, x)
    else:
        for layer in range(header.n_layers):
            x = _layer(graph, x, layer, own)
    _logits(graph, x)
    return graph


def _wanted(graph: Building, x: Node) -> Node:
    """Only the rows whose logits are asked for."""
    rows = min(OUTPUTS, graph.batch.tokens)
    return graph.op("get_rows", (x.dims[0], rows), x, graph.input("outputs", 4 * rows))


def _logits(graph: Building, x: Node) -> None:
    architecture = graph.header.architecture
    x = _wanted(graph, x) if architecture == "gemma3n" else x
    x = graph.norm(x, "output_norm.weight")
    x.kept = True
    if architecture == "gemma4":  # a draft model may want the state of every token
        x = _wanted(graph, x)
        x.kept = True
    name = "output.weight" if graph.has("output.weight") else "token_embd.weight"
    x = graph.matmul(graph.weight_at(name, graph.places.output), x)
    if architecture in _CAPPED:
        x = graph.like("scale", graph.like("unary", graph.like("scale", x)))
    x.kept = True
    graph.expand(x)


def _layer(graph: Building, x: Node, layer: int, own: Node | None) -> Node:
    """A layer of any but Gemma 3n."""
    header = graph.header
    out = attention(graph, graph.norm(x, "attn_norm.weight", layer), layer)
    if layer == header.n_layers - 1 and header.architecture != "gemma4":
        out, x = _wanted(graph, out), _wanted(graph, x)
    out = graph.norm_if_any(out, "post_attention_norm.weight", layer)
    attended = graph.like("add", out, x)
    out = _feed_forward(graph, attended, layer)
    out = graph.norm_if_any(out, "post_ffw_norm.weight", layer)
    out = graph.like("add", out, attended)
    if own is not None:
        out = graph.like("add", out, _gated(graph, out, layer, own))
    if graph.has("layer_output_scale.weight", layer):
        out = graph.like("mul", out, graph.weight("layer_output_scale.weight", layer))
    return out


def _own_embeddings(graph: Building, x: Node) -> Node:
    """The embeddings that each layer has of its own (Gemma 3n, E2B, E4B), of all layers."""
    header, tokens = graph.header, graph.batch.tokens
    width, layers = header.n_embd_per_layer, header.n_layers
    ids = graph.input("tokens of all layers", 4 * tokens)
    table = graph.weight("per_layer_token_embd.weight")
    rows = graph.op("get_rows", (width * layers, tokens), table, ids)
    rows = graph.like("scale", graph.view(rows, width, layers, tokens))
    graph.expand(rows)
    out = graph.like("scale", graph.matmul(graph.weight("per_layer_model_proj.weight"), x))
    out = graph.norm(graph.view(out, width, layers, tokens), "per_layer_proj_norm.weight")
    out = graph.like("scale", graph.like("add", out, rows))
    dims = (width, tokens, layers)
    return graph.op("cont", dims, graph.view(out, *dims))


def _gated(graph: Building, x: Node, layer: int, own: Node) -> Node:
    """What a layer's own embeddings add."""
    out = graph.like("unary", graph.matmul(graph.weight("inp_gate.weight", layer), x))
    mine = graph.view(own, graph.header.n_embd_per_layer, graph.batch.tokens)
    out = graph.matmul(graph.weight("proj.weight", layer), graph.like("mul", out, mine))
    return graph.norm(out, "post_norm.weight", layer)


def _feed_forward(graph: Building, x: Node, layer: int) -> Node:
    normed = graph.norm(x, "ffn_norm.weight", layer)
    up = graph.matmul(graph.weight("ffn_up.weight", layer), normed)
    gate = graph.matmul(graph.weight("ffn_gate.weight", layer), normed)
    out = graph.matmul(graph.weight("ffn_down.weight", layer), graph.like("glu", gate, up))
    if not graph.has("ffn_gate_inp.weight", layer):
        return out
    out = graph.norm(out, "post_ffw_norm_1.weight", layer)
    return graph.like("add", out, _experts(graph, x, layer))


def _experts(graph: Building, x: Node, layer: int) -> Node:
    header, tokens = graph.header, graph.batch.tokens
    used = header.n_expert_used
    normed = graph.norm(x, "pre_ffw_norm_2.weight", layer)
    shares, chosen = _routed(graph, x, layer)
    normed = graph.view(normed, header.n_embd, 1, tokens)
    both = _of_each(graph, "ffn_gate_up_exps.weight", normed, chosen, layer)
    width = both.dims[0] // 2
    halves = [graph.view(both, width, used, tokens, size=both.size) for _ in range(2)]
    out = graph.op("glu", (width, used, tokens), *halves)
    out = _of_each(graph, "ffn_down_exps.weight", out, chosen, layer)
    if graph.has("ffn_down_exps.scale", layer):
        scales = graph.weight("ffn_down_exps.scale", layer)
        scales = graph.view(scales, 1, header.n_expert, 1)
        scales = graph.op("repeat", (1, header.n_expert, tokens), scales)
        out = graph.like("mul", out, graph.op("get_rows", (1, used, tokens), scales, chosen))
    out = graph.like("mul", out, shares)
    graph.expand(out)
    parts = [graph.view(out, header.n_embd, tokens, size=out.size) for _ in range(used)]
    for part in parts:
        graph.expand(part)
    summed = parts[0]
    for part in parts[1:]:
        summed = graph.like("add", summed, part)
        graph.expand(summed)
    summed = summed if summed.op != VIEW else graph.op("cont", summed.dims, summed)
    return graph.norm(summed, "post_ffw_norm_2.weight", layer)


def _routed(graph: Building, x: Node, layer: int) -> tuple[Node, Node]:
    """Of each token, its experts' shares and which they are."""
    header, tokens = graph.header, graph.batch.tokens
    used = header.n_expert_used
    out = graph.like("scale", graph.like("rms_norm", x))
    out = graph.like("mul", out, graph.weight("ffn_gate_inp.scale", layer))
    out = graph.matmul(graph.weight("ffn_gate_inp.weight", layer), out)
    chances = graph.like("soft_max", out)
    chosen = graph.view(graph.like("argsort", chances), used, tokens)
    columns = graph.view(chances, 1, header.n_expert, tokens)
    shares = graph.op("get_rows", (1, used, tokens), columns, chosen)
    shares = graph.view(shares, used, tokens)
    total = graph.like("clamp", graph.op("sum_rows", (1, tokens), shares))
    shares = graph.view(graph.like("div", shares, total), 1, used, tokens)
    graph.expand(shares)
    return shares, chosen


def _of_each(graph: Building, name: str, x: Node, chosen: Node, layer: int) -> Node:
    weight = graph.weight(name, layer)
    dims = (weight.dims[1], graph.header.n_expert_used, graph.batch.tokens)
    return graph.op("mul_mat_id", dims, weight, x, chosen)
