"""Does a model fit here? Asked of the memory planner before there is a file to plan with."""

from __future__ import annotations

from dataclasses import asdict

from gemma_cli.errors import DoesNotFitError
from gemma_cli.machine.devices import Machine, this_machine
from gemma_cli.machine.memory import Plan, Wishes, compute_bytes, kv_bytes, plan
from gemma_cli.models.choice import Fit
from gemma_cli.models.entries import Shape
from gemma_cli.models.gguf import Header, Tensor

# A context that a conversation with a pasted page or two needs.
USEFUL_CTX = 8192
_GPU_MARGIN = 1 << 30


class MachineCapacity:
    """A machine's room for models, by the plan that would load them.

    whole_on_gpu: only what the GPUs hold alone counts as fitting.
    """

    def __init__(self, machine: Machine | None = None, *, whole_on_gpu: bool = False) -> None:
        self._machine = machine or this_machine()
        self._whole_on_gpu = whole_on_gpu

    @property
    def free(self) -> int:
        gpus = sum(max(0, gpu.free - _GPU_MARGIN) for gpu in self._machine.gpus)
        return self._machine.host.free + gpus

    def fit(self, shape: Shape, weights: int) -> Fit:
        """For a file of `weights` bytes that is not here yet."""
        return self.fit_header(planned_header(shape, weights))

    def fit_header(self, header: Header) -> Fit:
        n_ctx = min(USEFUL_CTX, header.n_ctx_train)
        needed = (
            header.tensor_bytes
            + kv_bytes(header, n_ctx, "f16", range(header.n_layers))
            + compute_bytes(header, n_ctx)
        )
        try:
            chosen = plan(header, self._machine, Wishes(n_ctx=n_ctx))
        except DoesNotFitError:
            return Fit(needed, fits=False)
        return Fit(needed, not self._whole_on_gpu or chosen.gpu_layers > chosen.n_layers)

    def plan(self, header: Header) -> Plan:
        """How it would be loaded without any wish; DoesNotFitError if it would not."""
        return plan(header, self._machine, Wishes())


def planned_header(shape: Shape, weights: int) -> Header:
    """The header to expect of a file with these weights: the embedding at a byte an
    element, as quantizations keep it, and the rest shared equally by the layers."""
    embedding = min(shape.n_vocab * shape.n_embd, weights // 2)
    layer = (weights - embedding) // shape.n_layers
    tensors = [Tensor("token_embd.weight", "", (), embedding, 0)]
    tensors += [Tensor(f"blk.{i}.weight", "", (), layer, 0) for i in range(shape.n_layers)]
    return Header(
        **asdict(shape),
        name="",
        basename="",
        finetune="",
        size_label="",
        license="",
        quant="",
        tokenizer_model="",
        chat_template=None,
        file_bytes=weights,
        tensor_bytes=weights,
        tensors=tuple(tensors),
        split_count=1,
    )
