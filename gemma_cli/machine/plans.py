"""What a memory plan is made of: wishes, shares of devices, the plan itself. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gemma_cli.machine.devices import Device
from gemma_cli.machine.layout import KVType

_MIB = 1 << 20
HOST_MARGIN = 256 * _MIB
# Left to the desktop, and to what a driver takes for itself.
GPU_MARGIN = 1024 * _MIB


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user asked for; None leaves the choice to the plan.

    n_ctx: tokens, or "max" for all that the model was trained on. gpu_layers
    counts as llama.cpp's n_gpu_layers does: layers + 1 is everything.
    beyond_training: n_ctx may be more than the model was trained on. gpu_margin:
    bytes to leave free on each GPU. beside: bytes of LoRA adapters and a
    projector that are loaded with the model, on the first GPU that has layers of
    it, else on the host. force: try what does not fit.
    """

    n_ctx: int | Literal["max"] | None = None
    gpu_layers: int | Literal["all"] | None = None
    threads: int | None = None
    kv_type: KVType = "f16"
    beyond_training: bool = False
    gpu_margin: int = GPU_MARGIN
    beside: int = 0
    force: bool = False


@dataclass(frozen=True, slots=True)
class Share:
    """What one device will hold, in bytes. layers: how many, the output being one."""

    device: Device
    weights: int
    kv: int
    compute: int
    layers: int = 0

    @property
    def needed(self) -> int:
        return self.weights + self.kv + self.compute

    @property
    def left(self) -> int:
        """Bytes free beside it; negative where it does not fit."""
        return self.device.free - self.needed


@dataclass(frozen=True, slots=True)
class Plan:
    """How to load a model here. shares: the host first, then each GPU in ggml's order.

    checkpoint_bytes: of host memory for copies of window layers to go back to.
    host_experts: how many of the offloaded layers, from the first one, leave
    their experts on the host. in_file: bytes of weights that stay in the file
    and are read row by row. notes: what had to be assumed.
    """

    n_ctx: int
    n_ctx_max: int
    n_layers: int
    gpu_layers: int
    kv_type: KVType
    ubatch: int
    threads: int
    shares: tuple[Share, ...]
    why: str
    checkpoint_bytes: int = 0
    host_experts: int = 0
    in_file: int = 0
    notes: tuple[str, ...] = ()

    @property
    def host(self) -> Share:
        return self.shares[0]

    @property
    def all_on_gpu(self) -> bool:
        return self.gpu_layers > self.n_layers and not self.host_experts

    @property
    def split(self) -> tuple[int, ...]:
        """Layers of each GPU, for llama.cpp's tensor_split; empty with one or none."""
        return tuple(share.layers for share in self.shares[1:]) if len(self.shares) > 2 else ()

    @property
    def experts_on_host(self) -> range:
        """The offloaded layers whose experts stay on the host."""
        first = self.n_layers + 1 - self.gpu_layers
        return range(first, first + self.host_experts)

    def fits(self, gpu_margin: int) -> bool:
        """Whether every device holds its share; memory that is shared counts once."""
        needed = self.host.needed + HOST_MARGIN
        for share in self.shares[1:]:
            if share.device.unified:
                needed += share.needed
            if share.needed and share.left < gpu_margin:
                return False
        return needed <= self.host.device.free
