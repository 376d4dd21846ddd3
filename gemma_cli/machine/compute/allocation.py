"""What a graph takes on each device: llama.cpp's scheduler and allocator, without any memory.

Sources: ggml-backend.cpp (which device computes a node, what is copied there)
and ggml-alloc.c (where a tensor lies in its device's buffer, and until when).
scripts/check_offload.py compares the outcome with llama.cpp's own.
"""

from __future__ import annotations

import math

from gemma_cli.machine.compute.nodes import CACHE, COPY, INPUT, VIEW, WEIGHT, Building, Node

# Where several GPUs hold everything, llama.cpp lets them work on batches one
# after another and keeps the inputs of as many (GGML_SCHED_MAX_COPIES).
BATCHES = 4
# So many rows are worth bringing a weight to a GPU for (ggml-cuda.cu and others).
_LONG_BATCH = 32
_ALIGNMENT = 128
_ENDLESS = 1 << 62
_DEPENDENCY = "dependency"
# Operations that may write their result over an operand (ggml_op_can_inplace).
_IN_PLACE = frozenset((
    "add", "clamp", "div", "mul", "rms_norm", "rope", "scale", "soft_max", "sqr", "sqrt", "sub",
    "unary",
))  # fmt: skip


def compute_buffers(graph: Building, *, overlapping: bool, long_batches: bool) -> list[int]:
    """Bytes of each device's compute buffer, the host's last; the graph is used up by it.

    overlapping: GPUs work on several batches at once. long_batches: the first
    GPU computes those of the host's layers, their weights brought over.
    """
    host = graph.places.host
    _assign(graph.nodes, host, long_batches)
    nodes, lasting = _with_copies(graph, BATCHES if overlapping else 1)
    return _allocate(nodes, [*lasting, *graph.leafs], host + 1)


def _assign(nodes: list[Node], host: int, long_batches: bool) -> None:
    """Where each node is computed: by its weight, else as its neighbours, GPUs first."""
    for node in nodes:
        weights = [source for source in node.sources if source.op == WEIGHT]
        if node.outside:
            node.place = (node.root or node).place
        elif weights and node.op != "rope":
            node.place = weights[0].place
            if long_batches and node.place == host and _rows(node) >= _LONG_BATCH:
                node.place = 0
    computed = [node for node in nodes if node.op != VIEW]
    for passed_over in (host, -1):
        for order in (computed, computed[::-1]):
            _spread(order, passed_over)
    for node in nodes:
        if node.op == VIEW and node.root is not None:
            node.place = node.root.place


def _rows(node: Node) -> int:
    if node.op == "get_rows":
        return 0
    if node.op == "mul_mat":
        return node.dims[1]
    return node.dims[2] if node.op == "mul_mat_id" else math.prod(node.dims[1:])


def _spread(nodes: list[Node], passed_over: int) -> None:
    current = -1
    for node in nodes:
        if node.place >= 0:
            current = -1 if node.place == passed_over else node.place
        elif current >= 0:
            node.place = current


def _with_copies(graph: Building, batches: int) -> tuple[list[Node], list[Node]]:
    """The nodes, and before each part that one device computes the copies of what it reads
    from others; and what keeps its memory from the start because batches overlap."""
    sequence: list[Node] = []
    lasting: list[Node] = []
    copies: dict[tuple[int, int], Node] = {}
    crossing: list[Node] = []
    part: list[Node] = []
    current = -1
    for node in graph.nodes:
        if node.op == VIEW:
            part.append(node)
            continue
        foreign = any(s.op == WEIGHT and s.place != node.place for s in node.sources)
        if node.place != current or (crossing and foreign):
            sequence += crossing + part
            current, crossing, part = node.place, [], []
        for index, source in enumerate(node.sources):
            if source.place == current:
                continue
            key = (id(source), current)
            if key not in copies:
                copies[key] = Node(COPY, source.dims, [], source.size, place=current)
                # What is copied stays until the copy is made.
                depends = Node(_DEPENDENCY, source.dims, [source], 0, source.root or source)
                crossing += (depends, copies[key])
                lasting += _repeated(copies[key], batches)
            node.sources[index] = copies[key]
        part.append(node)
    inputs = [leaf for leaf in graph.leafs if leaf.op == INPUT]
    lasting = [*(each for leaf in inputs for each in _repeated(leaf, batches)), *lasting]
    return sequence + crossing + part, lasting


def _repeated(node: Node, batches: int) -> list[Node]:
    if batches == 1:
        return []
    node.kept = True
    return [node, *(Node(COPY, (), [], node.size, place=node.place) for _ in range(batches - 1))]


class _Buffer:
    """ggml_dyn_tallocr: the best fit among the gaps, else the end. size: the most it was."""

    def __init__(self) -> None:
        self._gaps = [(0, _ENDLESS)]
        self.size = 0

    def take(self, size: int) -> int:
        best, fit = len(self._gaps) - 1, _ENDLESS
        for index, (_, length) in enumerate(self._gaps[:-1]):
            if size <= length <= fit:
                best, fit = index, length
        start, length = self._gaps[best]
        if length == size:
            del self._gaps[best]
        else:
            self._gaps[best] = (start + size, length - size)
        self.size = max(self.size, start + size)
        return start

    def give_back(self, start: int, size: int) -> None:
        gaps, index, end = self._gaps, 0, start + size
        while gaps[index][0] < start:
            index += 1
        if gaps[index][0] == end:
            end += gaps.pop(index)[1]
        if index and sum(gaps[index - 1]) == start:
            index -= 1
            start = gaps.pop(index)[0]
        gaps.insert(index, (start, end - start))


def _allocate(nodes: list[Node], leafs: list[Node], devices: int) -> list[int]:
    buffers = [_Buffer() for _ in range(devices)]
    for leaf in leafs:
        _hold(leaf, buffers)
    for node in nodes:
        if node.root is not None and node.op != _DEPENDENCY:
            node.root.views += 1
        for source in node.sources:
            source.children += 1
    for node in nodes:
        _hold(node, buffers)
        for source in node.sources:
            source.children -= 1
            if source.children or source.views:
                continue
            if source.root is None:
                _release(source, buffers)
                continue
            source.root.views -= 1
            if not source.root.views and not source.root.children:
                _release(source.root, buffers)
    return [buffer.size for buffer in buffers]


def _hold(node: Node, buffers: list[_Buffer]) -> None:
    if node.held or node.root is not None or node.op in (WEIGHT, CACHE):
        return
    node.held = True
    for parent in node.sources if node.op in _IN_PLACE else ():
        alone = parent.held and not parent.kept and parent.children == 1 and not parent.views
        if alone and parent.dims == node.dims:
            node.at, node.place, parent.held = parent.at, parent.place, False
            return
    node.at = buffers[node.place].take(_aligned(node.size))


def _release(node: Node, buffers: list[_Buffer]) -> None:
    if node.held and not node.kept:
        buffers[node.place].give_back(node.at, _aligned(node.size))
        node.held = False


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
