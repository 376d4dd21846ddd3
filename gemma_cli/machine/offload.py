"""Which layers go to which GPU, and what each device then holds. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gemma_cli.machine.compute.allocation import BATCHES, compute_buffers
from gemma_cli.machine.compute.graph import KNOWN, evaluation
from gemma_cli.machine.compute.nodes import Batch, Places
from gemma_cli.machine.devices import Device, Machine
from gemma_cli.machine.layout import (
    CPU_UBATCH,
    GPU_UBATCH,
    KVType,
    Parts,
    compute_bytes,
    kv_of_layers,
    mask_bytes,
)
from gemma_cli.machine.plans import Share
from gemma_cli.models.gguf import Header

# Backends that compute no layer but those that lie with them (no offload_op in ggml);
# the others bring the host's weights over for long batches.
_OWN_LAYERS_ONLY = frozenset(("OpenCL", "RPC", "WebGPU"))
# Of n_embd for each token: more than any graph without known streams hands on.
_CROSSING_ROWS = 3


@dataclass(frozen=True, slots=True)
class Offload:
    """So many layers, from the last one back; the output is the first of them to go.

    host_experts: the first so many of them leave their experts on the host.
    split: layers for each GPU, in order.
    """

    gpu_layers: int
    host_experts: int
    split: tuple[int, ...]


class Offloading:
    """The ways to lay one model with one context out over a host and its GPUs."""

    def __init__(
        self,
        header: Header,
        parts: Parts,
        n_ctx: int,
        kv_type: KVType,
        beside: int,
        ubatch: int = GPU_UBATCH,
    ) -> None:
        self._header, self._parts, self._n_ctx, self._kv_type = header, parts, n_ctx, kv_type
        self._beside, self._ubatch = beside, min(ubatch, n_ctx)
        self._kv = kv_of_layers(header, n_ctx, kv_type, self._ubatch)

    def best(self, machine: Machine, margin: int) -> Offload:
        """Everything if it fits; else without the experts of some layers; else fewer layers."""
        everything = self._header.n_layers + 1
        experts = self._header.n_layers if self._header.n_expert else 0
        return (
            self._first(machine, margin, [(everything, 0)])
            or self._first(machine, margin, [(everything, n) for n in range(1, experts + 1)])
            or self._first(
                machine, margin, [(n, min(n - 1, experts)) for n in range(everything - 1, 0, -1)]
            )
            or Offload(0, 0, (0,) * len(machine.gpus))
        )

    def asked(self, machine: Machine, count: int, margin: int) -> Offload:
        """So many layers, whether they fit or not; shared by free memory where they do not."""
        experts = count if self._header.n_expert else 0
        return (
            self._first(machine, margin, [(count, 0)])
            or self._first(machine, margin, [(count, n) for n in range(1, experts)])
            or Offload(count, 0, _by_free_memory(machine.gpus, count))
        )

    def _first(
        self, machine: Machine, margin: int, ways: Iterable[tuple[int, int]]
    ) -> Offload | None:
        """The first of these (layers, experts on the host) that fits, compute buffers included.

        Those take milliseconds to find. So a way is tried first with the smallest
        seen so far: only one that seems to fit is laid out in full.
        """
        rooms = [gpu.free - margin if gpu.total else 0 for gpu in machine.gpus]
        least: list[int] = []
        for count, host_experts in ways:
            compute = least or [0] * len(rooms)
            for _ in range(2):
                split = self._fill(rooms, compute, count, host_experts)
                if split is None:
                    break
                offload = Offload(count, host_experts, split)
                shares = self.shares(machine.host, machine.gpus, offload)[1:]
                tight = [share for share in shares if share.needed and share.left < margin]
                if not tight:
                    return offload
                # One without layers computes for the host, where what follows leaves more to do.
                if not all(share.layers for share in tight):
                    return None
                compute = [share.compute for share in shares]
                least = [min(pair) for pair in zip(least or compute, compute, strict=True)]
        return None

    def _fill(
        self, rooms: Sequence[int], compute: Sequence[int], count: int, host_experts: int
    ) -> tuple[int, ...] | None:
        """Layers for each GPU, each filled before the next is begun; None if they do not fit."""
        sizes = self._moved(count, host_experts)
        split, start = [], 0
        for room, buffer in zip(rooms, compute, strict=True):
            left, taken = room - buffer - (0 if start else self._beside), 0
            while start + taken < count and sizes[start + taken] <= left:
                left -= sizes[start + taken]
                taken += 1
            split.append(taken)
            start += taken
        return tuple(split) if start == count else None

    def _moved(self, count: int, host_experts: int) -> list[int]:
        """Bytes of weights and KV of each layer that is moved; the output last."""
        first, parts = self._header.n_layers + 1 - count, self._parts
        sizes = [
            parts.layers[i] + (parts.experts[i] if i - first >= host_experts else 0) + self._kv[i]
            for i in range(first, self._header.n_layers)
        ]
        return [*sizes, parts.output]

    def in_file(self, offload: Offload) -> int:
        """Bytes of per-layer embeddings that are read from the file row by row.

        llama.cpp does so for Gemma 4 only; the engine asks for it on the CPU.
        """
        on_cpu = not offload.gpu_layers and self._header.architecture == "gemma4"
        return self._parts.in_file if on_cpu else 0

    def shares(self, host: Device, gpus: Sequence[Device], offload: Offload) -> tuple[Share, ...]:
        """Bytes on each device, the host first."""
        if not offload.gpu_layers:
            return self._host_only(host, gpus)
        header, parts = self._header, self._parts
        first = header.n_layers + 1 - offload.gpu_layers
        moved = first + offload.host_experts  # from here on experts are on GPUs
        compute = self._compute(gpus, offload)
        weights = (
            parts.host + parts.in_file + sum(parts.layers[:first]) + sum(parts.experts[:moved])
        )
        shares = [Share(host, weights, sum(self._kv[:first]), compute[-1], first)]
        start, beside = first, self._beside
        for gpu, layers, buffer in zip(gpus, offload.split, compute[:-1], strict=True):
            if not layers:
                shares.append(Share(gpu, 0, 0, buffer))
                continue
            end = start + layers
            weights = sum(parts.layers[start:end]) + sum(parts.experts[max(start, moved) : end])
            weights += parts.output if end > header.n_layers else 0
            shares.append(Share(gpu, weights + beside, sum(self._kv[start:end]), buffer, layers))
            start, beside = end, 0
        return tuple(shares)

    def _compute(self, gpus: Sequence[Device], offload: Offload) -> list[int]:
        """Compute buffers of the GPUs, then the host's."""
        whole = offload.gpu_layers > self._header.n_layers and not offload.host_experts
        # llama.cpp counts idle GPUs too.
        overlapping = whole and len(gpus) > 1
        if self._header.architecture in KNOWN:
            batch = Batch(self._n_ctx, self._kv_type, self._ubatch)
            try:
                graph = evaluation(self._header, self._places(offload), batch)
            except KeyError:  # not the tensors that such a Gemma has
                return self._guessed(offload, whole, overlapping)
            long_batches = gpus[0].backend not in _OWN_LAYERS_ONLY
            return compute_buffers(graph, overlapping=overlapping, long_batches=long_batches)
        return self._guessed(offload, whole, overlapping)

    def _places(self, offload: Offload) -> Places:
        host = len(offload.split)
        first = self._header.n_layers + 1 - offload.gpu_layers
        places = [host] * first
        for gpu, layers in enumerate(offload.split):
            places += [gpu] * layers
        *layers_at, output = places
        moved = first + offload.host_experts
        experts = [host] * moved + layers_at[moved:]
        return Places(tuple(layers_at), tuple(experts[: len(layers_at)]), output, host)

    def _guessed(self, offload: Offload, whole: bool, overlapping: bool) -> list[int]:
        """Cautious figures for a graph that is not known: a GPU has all that one can need."""
        header = self._header
        host = gpu = compute_bytes(header, self._n_ctx, self._ubatch)
        gpu += 0 if whole else self._parts.largest + max(self._kv)
        if overlapping:
            masks = mask_bytes(header, self._n_ctx, self._ubatch)
            host += BATCHES * masks
            gpu += BATCHES * (masks + _CROSSING_ROWS * 4 * self._ubatch * header.n_embd)
        # The first one also computes for the host, whatever it holds itself.
        used = (layers or (not whole and not i) for i, layers in enumerate(offload.split))
        return [*(gpu if each else 0 for each in used), host]

    def _host_only(self, host: Device, gpus: Sequence[Device]) -> tuple[Share, ...]:
        header, parts = self._header, self._parts
        weights = parts.host + parts.output - parts.shared + self._beside
        weights += sum(parts.layers) + sum(parts.experts)
        weights += parts.in_file - self.in_file(Offload(0, 0, ()))
        kv = sum(kv_of_layers(header, self._n_ctx, self._kv_type, CPU_UBATCH))
        compute = compute_bytes(header, self._n_ctx, CPU_UBATCH)
        shares = [Share(host, weights, kv, compute, header.n_layers + 1)]
        return (*shares, *(Share(gpu, 0, 0, 0) for gpu in gpus))


def _by_free_memory(gpus: Sequence[Device], count: int) -> tuple[int, ...]:
    total = sum(gpu.free for gpu in gpus) or len(gpus)
    split = [count * (gpu.free or 1) // total for gpu in gpus]
    split[0] += count - sum(split)
    return tuple(split)
