"""Which layers go to which GPU. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gemma_cli.machine.crossing import BATCHES, gpu_compute, host_overlap, kv_read
from gemma_cli.machine.devices import Device
from gemma_cli.machine.layout import (
    CPU_UBATCH,
    GPU_UBATCH,
    KVType,
    Parts,
    compute_bytes,
    host_compute_bytes,
    kv_of_layers,
)
from gemma_cli.machine.plans import Share
from gemma_cli.models.gguf import Header


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
        self, header: Header, parts: Parts, n_ctx: int, kv_type: KVType, beside: int
    ) -> None:
        self._header, self._parts, self._n_ctx, self._kv_type = header, parts, n_ctx, kv_type
        self._beside = beside
        self._kv = kv_of_layers(header, n_ctx, kv_type, GPU_UBATCH)
        self._compute = compute_bytes(header, n_ctx, GPU_UBATCH)

    def best(self, gpus: Sequence[Device], margin: int) -> Offload:
        """Everything if it fits; else without the experts of some layers; else fewer layers."""
        rooms = [gpu.free - margin if gpu.total else 0 for gpu in gpus]
        everything = self._header.n_layers + 1
        most_experts = self._header.n_layers if self._header.n_expert else 0
        for host_experts in range(most_experts + 1):
            if (split := self._fill(rooms, everything, host_experts)) is not None:
                return Offload(everything, host_experts, split)
        for count in range(everything - 1, 0, -1):
            if (split := self._fill(rooms, count, most_experts)) is not None:
                return Offload(count, min(count - 1, most_experts), split)
        return Offload(0, 0, (0,) * len(gpus))

    def asked(self, gpus: Sequence[Device], count: int, margin: int) -> Offload:
        """So many layers, whether they fit or not; shared by free memory where they do not."""
        rooms = [gpu.free - margin for gpu in gpus]
        split = self._fill(rooms, count, 0)
        if split is None and self._header.n_expert:
            for host_experts in range(1, count):
                if (split := self._fill(rooms, count, host_experts)) is not None:
                    return Offload(count, host_experts, split)
        return Offload(count, 0, split or _by_free_memory(gpus, count))

    def _fill(self, rooms: Sequence[int], count: int, host_experts: int) -> tuple[int, ...] | None:
        """Layers for each GPU, each filled before the next is begun; None if they do not fit."""
        header, sizes = self._header, self._moved(count, host_experts)
        first = header.n_layers + 1 - count
        overlapping = self._overlapping(len(rooms), count, host_experts)
        # An upper estimate: that of a GPU with layers of both kinds.
        overhead = self._copied(count, host_experts) + gpu_compute(
            header,
            self._n_ctx,
            self._kv,
            range(header.n_layers),
            overlapping=overlapping,
            later=True,
            hands_on=True,
        )
        split, start = [], 0
        for room in rooms:
            left, taken = room - overhead - (0 if start else self._beside), 0
            while start + taken < count:
                size = sizes[start + taken]
                if first + start + taken < header.n_layers:
                    read = kv_read(header, self._kv, first + start + taken, first + start)
                    size += BATCHES * read if overlapping else read
                if size > left:
                    break
                left -= size
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

    def _copied(self, count: int, host_experts: int) -> int:
        """Weights of the host are brought over for long batches: room for the largest."""
        all_there = count > self._header.n_layers and not host_experts
        return 0 if all_there else self._parts.largest

    def _overlapping(self, gpus: int, count: int, host_experts: int) -> bool:
        """Whether GPUs work on several batches at once; llama.cpp counts idle ones too."""
        return gpus > 1 and count > self._header.n_layers and not host_experts

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
        count, experts = offload.gpu_layers, offload.host_experts
        first = header.n_layers + 1 - count
        held = sum(parts.layers[:first]) + sum(parts.experts[: first + experts])
        compute = self._compute
        if count > header.n_layers:
            compute = host_compute_bytes(header, self._n_ctx, GPU_UBATCH)
            compute = self._compute if experts else compute
        overlapping = self._overlapping(len(gpus), count, experts)
        compute += host_overlap(header, self._n_ctx) if overlapping else 0
        weights = parts.host + parts.in_file + held
        shares = [Share(host, weights, sum(self._kv[:first]), compute, first)]
        start, beside = first, self._beside
        for gpu, layers in zip(gpus, offload.split, strict=True):
            if not layers:
                shares.append(Share(gpu, 0, 0, 0))
                continue
            end = min(start + layers, header.n_layers)
            weights = sum(parts.layers[start:end]) + sum(
                parts.experts[max(start, first + experts) : end]
            )
            weights += parts.output if start + layers > header.n_layers else 0
            kv = sum(self._kv[start:end])
            compute = self._copied(count, experts) + gpu_compute(
                header,
                self._n_ctx,
                self._kv,
                range(start, end),
                overlapping=overlapping,
                later=start > first,
                hands_on=start + layers <= header.n_layers,
                for_host=bool(first or experts),
            )
            shares.append(Share(gpu, weights + beside, kv, compute, layers))
            start, beside = start + layers, 0
        return tuple(shares)

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
