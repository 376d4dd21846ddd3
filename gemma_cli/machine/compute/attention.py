"""Attention as llama.cpp's graph has it, with flash attention. Source: llama-graph.cpp."""

from __future__ import annotations

import math

from gemma_cli.machine.compute.nodes import Building, Node
from gemma_cli.machine.layout import head_widths, is_local, kv_cells, kv_source

_VALUE_ROTATION = 64  # elements at a time


def attention(graph: Building, x: Node, layer: int) -> Node:
    """A layer's attention over what is normed already, its output projection included."""
    header, tokens = graph.header, graph.batch.tokens
    local = is_local(header, layer)
    key, value = head_widths(header, local)
    heads = header.n_head_kv[layer]
    recent = header.architecture in ("gemma3n", "gemma4")
    turns = [graph.input("positions", 4 * tokens)]
    if graph.has("rope_freqs.weight") and not local:
        turns.append(graph.weight_at("rope_freqs.weight", graph.places.layers[layer]))

    def turned(node: Node, norm: str) -> Node:
        return graph.like("rope", graph.norm_if_any(node, norm, layer), *turns)

    q = graph.matmul(graph.weight("attn_q.weight", layer), x)
    q = turned(graph.view(q, key, header.n_head, tokens), "attn_q_norm.weight")
    q = q if recent else graph.like("scale", q)
    k = v = None
    if kv_source(header, layer) == layer:
        k = v = graph.matmul(graph.weight("attn_k.weight", layer), x)
        if graph.has("attn_v.weight", layer):
            v = graph.matmul(graph.weight("attn_v.weight", layer), x)
        k = turned(graph.view(k, key, heads, tokens), "attn_k_norm.weight")
        v = graph.view(v, value, heads, tokens)
        v = graph.like("rms_norm", v) if recent else v
    attended = _attend(graph, q, k, v, layer)
    return graph.matmul(graph.weight("attn_output.weight", layer), attended)


def _attend(graph: Building, q: Node, k: Node | None, v: Node | None, layer: int) -> Node:
    header, batch = graph.header, graph.batch
    local = is_local(header, layer)
    kind = "of window layers" if local else "of full layers"
    key, value = head_widths(header, local)
    quantized = batch.kv_type != "f16"
    if quantized:
        # Rotated by Hadamard matrices, which quantized caches lose less with.
        matrix = graph.input(f"key rotation {kind}", 4 * key * key)
        q, k = _rotated(graph, matrix, q), k and _rotated(graph, matrix, k)
        matrix = graph.input(f"value rotation {kind}", 4 * _VALUE_ROTATION**2)
        v = v and _rotated(graph, matrix, v)
    for node in (q, k, v) if header.sliding_window else (q, v, k):
        if node is not None:
            graph.expand(node)
    source = kv_source(header, layer)
    caches = [graph.cache(part, source) for part in (0, 1)]
    for part, node in enumerate((k, v)):
        if node is not None:
            _store(graph, node, caches[part], f"cells {part} {kind}")
    cells = kv_cells(header, batch.n_ctx, batch.tokens, local)
    mask = graph.input(f"mask {kind}", 2 * batch.tokens * cells)
    read = [graph.view(cache, *cache.dims, size=cache.size) for cache in caches]
    dims = (value, header.n_head, batch.tokens)
    out = graph.op("flash_attn", dims, graph.view(q, *q.dims), *read, mask)
    out = graph.view(out, value * header.n_head, batch.tokens)
    graph.expand(out)
    return _rotated(graph, matrix, out) if quantized else out


def _rotated(graph: Building, matrix: Node, x: Node) -> Node:
    flat = graph.view(x, *x.dims)
    return graph.view(graph.op("mul_mat", x.dims, matrix, flat), *x.dims)


def _store(graph: Building, node: Node, cache: Node, cells: str) -> None:
    rows = graph.view(node, math.prod(node.dims[:2]), graph.batch.tokens)
    places = graph.input(cells, 8 * graph.batch.tokens)
    graph.expand(Node("set_rows", cache.dims, [rows, places, cache], cache.size, cache))
