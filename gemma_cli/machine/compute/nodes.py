"""What a graph is made of, and the operations that every Gemma is built with.

Only what memory depends on: sizes, order, and what is read by whom. Sources:
ggml.c, llama-graph.cpp.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from gemma_cli.machine.layout import KV_BLOCK, KVType, head_widths, is_local, kv_cells
from gemma_cli.models.gguf import Header, Tensor

Dims = tuple[int, ...]
VIEW, WEIGHT, CACHE, INPUT, COPY = "view", "weight", "cache", "input", "copy"


class Node:
    """A tensor of the graph. dims: elements; size: bytes; root: the tensor it is a view of.

    place: the device that it lies on or is computed on, -1 while unknown. kept:
    it keeps its memory to the end. seen: it is in the graph. held, at, children,
    views: for the allocator.
    """

    __slots__ = (
        "at", "children", "dims", "held", "kept", "op", "place", "root", "seen", "size",
        "sources", "views",
    )  # fmt: skip

    def __init__(
        self,
        op: str,
        dims: Dims,
        sources: list[Node],
        size: int,
        root: Node | None = None,
        place: int = -1,
    ) -> None:
        self.op, self.dims, self.sources, self.size, self.root = op, dims, sources, size, root
        self.place, self.at, self.children, self.views = place, 0, 0, 0
        self.held = self.kept = self.seen = False

    @property
    def outside(self) -> bool:
        """Whether it has memory of its own already: weights and KV cache."""
        return (self.root or self).op in (WEIGHT, CACHE)


@dataclass(frozen=True, slots=True)
class Places:
    """Devices by number, the host last: of each layer, of its experts, of the output."""

    layers: tuple[int, ...]
    experts: tuple[int, ...]
    output: int
    host: int


@dataclass(frozen=True, slots=True)
class Batch:
    """What is evaluated: so many tokens at once, before a cache of n_ctx."""

    n_ctx: int
    kv_type: KVType
    tokens: int


class Building:
    """A graph under construction. nodes: in the order of evaluation; leafs: what they begin
    with. KeyError where the header lacks a tensor."""

    def __init__(self, header: Header, places: Places, batch: Batch) -> None:
        self.nodes: list[Node] = []
        self.leafs: list[Node] = []
        self.header, self.places, self.batch = header, places, batch
        self._tensors = {tensor.name: tensor for tensor in header.tensors}
        self._known: dict[str, Node] = {}

    def expand(self, node: Node) -> None:
        """Put a node into the graph, after all that it needs and does not stand there yet."""
        if node.seen:
            return
        node.seen = True
        for source in node.sources:
            self.expand(source)
        (self.nodes if node.sources else self.leafs).append(node)

    def op(self, name: str, dims: Dims, *sources: Node) -> Node:
        """A new tensor of 32-bit floats."""
        return Node(name, dims, list(sources), 4 * math.prod(dims))

    def like(self, name: str, *sources: Node) -> Node:
        """The same, as large as the first source."""
        return self.op(name, sources[0].dims, *sources)

    def view(self, source: Node, *dims: int, size: int = 0) -> Node:
        """size: bytes, where the elements do not lie together."""
        return Node(VIEW, dims, [source], size or 4 * math.prod(dims), source.root or source)

    def input(self, name: str, size: int) -> Node:
        """What the host writes before each batch; one of a name."""
        if name not in self._known:
            self._known[name] = Node(INPUT, (size,), [], size, place=self.places.host)
        return self._known[name]

    def has(self, name: str, layer: int | None = None) -> bool:
        return _full(name, layer) in self._tensors

    def weight(self, name: str, layer: int | None = None) -> Node:
        full = _full(name, layer)
        if full not in self._known:
            place = self._place(name, layer)
            self._known[full] = self._at(self._tensors[full], place)
        return self._known[full]

    def weight_at(self, name: str, place: int) -> Node:
        """A weight that lies on each device that needs it."""
        key = f"{name} on {place}"
        if key not in self._known:
            self._known[key] = self._at(self._tensors[name], place)
        return self._known[key]

    def _at(self, tensor: Tensor, place: int) -> Node:
        return Node(WEIGHT, tensor.shape, [], tensor.bytes, place=place)

    def _place(self, name: str, layer: int | None) -> int:
        places = self.places
        if layer is not None:
            return (places.experts if "_exps." in name else places.layers)[layer]
        if name.startswith(("output", "altup_")):
            return places.output
        first = name.startswith("per_layer_") and name != "per_layer_token_embd.weight"
        return places.layers[0] if first else places.host

    def matmul(self, weight: Node, x: Node) -> Node:
        return self.op("mul_mat", (weight.dims[1], *x.dims[1:]), weight, x)

    def norm(self, x: Node, name: str, layer: int | None = None) -> Node:
        return self.like("mul", self.like("rms_norm", x), self.weight(name, layer))

    def norm_if_any(self, x: Node, name: str, layer: int) -> Node:
        return self.norm(x, name, layer) if self.has(name, layer) else x

    def cache(self, part: int, layer: int) -> Node:
        """A layer's keys (part 0) or values (1)."""
        name = f"cache {part} of {layer}"
        if name not in self._known:
            header, batch = self.header, self.batch
            local = is_local(header, layer)
            cells = kv_cells(header, batch.n_ctx, batch.tokens, local)
            size, elements = KV_BLOCK[batch.kv_type]
            row = head_widths(header, local)[part] * header.n_head_kv[layer]
            total = row * cells * size // elements
            place = self.places.layers[layer]
            self._known[name] = Node(CACHE, (row, cells), [], total, place=place)
        return self._known[name]


def _full(name: str, layer: int | None) -> str:
    return name if layer is None else f"blk.{layer}.{name}"
