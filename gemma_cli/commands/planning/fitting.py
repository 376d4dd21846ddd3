"""Does a model fit here? Asked of the memory planner before there is a file to plan with."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict, replace
from functools import cache

from gemma_cli.errors import DoesNotFitError, GemmaError
from gemma_cli.machine.devices import Machine, this_machine
from gemma_cli.machine.memory import GPU_MARGIN, Plan, Wishes, attempt, layouts, plan
from gemma_cli.machine.sizes import parse_size
from gemma_cli.models.anatomy import tensors_of
from gemma_cli.models.choice import Fit, best_file, planned_bytes
from gemma_cli.models.entries import CatalogModel, Shape, load_catalog, quant_rank
from gemma_cli.models.gguf import Header, Tensor
from gemma_cli.settings import load_settings

# A context that a conversation with a pasted page or two needs.
USEFUL_CTX = 8192
# To recognise a file's quantization by its size.
_QUANTS = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "QAT_Q4_0")


class MachineCapacity:
    """A machine's room for models, by the plan that would load them.

    whole_on_gpu: only what the GPUs hold alone counts as fitting. gpu_margin: bytes
    to leave free on each GPU; None: as GEMMA_GPU_MARGIN or config.toml say.
    """

    def __init__(
        self,
        machine: Machine | None = None,
        *,
        whole_on_gpu: bool = False,
        gpu_margin: int | None = None,
    ) -> None:
        self._machine = machine or this_machine()
        self._whole_on_gpu = whole_on_gpu
        self._margin = configured_margin() if gpu_margin is None else gpu_margin

    @property
    def free(self) -> int:
        own = (gpu for gpu in self._machine.gpus if not gpu.unified)
        return self._machine.host.free + sum(max(0, gpu.free - self._margin) for gpu in own)

    def fit(self, shape: Shape, weights: int, beside: int = 0) -> Fit:
        """For a file of `weights` bytes that is not here yet; beside it a projector, say."""
        return self.fit_header(planned_header(shape, weights), beside)

    def fit_header(self, header: Header, beside: int = 0) -> Fit:
        n_ctx = min(USEFUL_CTX, header.n_ctx_train or USEFUL_CTX)
        wishes = Wishes(n_ctx=n_ctx, beside=beside, gpu_margin=self._margin)
        (layout,) = layouts(header, replace(self._machine, gpus=()), wishes)
        chosen, fits = attempt(header, self._machine, wishes)
        if not fits:
            return Fit(layout.host.needed, fits=False)
        fast = chosen.all_on_gpu or not self._machine.gpus
        return Fit(layout.host.needed, not self._whole_on_gpu or chosen.all_on_gpu, fast)

    def plan(self, header: Header) -> Plan:
        """How it would be loaded without any wish; DoesNotFitError if not."""
        return plan(header, self._machine, Wishes(gpu_margin=self._margin))


def configured_margin() -> int:
    """Bytes to leave free on each GPU, for commands without that option. UsageError."""
    asked = os.environ.get("GEMMA_GPU_MARGIN") or load_settings().gpu_margin
    return parse_size("GEMMA_GPU_MARGIN", asked) if asked else GPU_MARGIN


def planned_header(shape: Shape, weights: int, quant: str = "") -> Header:
    """The header to expect of a file with these weights, in a quantization or the likeliest one.

    Publishers' choices differ for some tensors: all are scaled to the file's size.
    """
    tensors = _scaled(_expected(shape, quant or likely_quant(shape, weights)), weights)
    return Header(
        **asdict(shape),
        name="",
        basename="",
        finetune="",
        size_label="",
        license="",
        quant=quant,
        tokenizer_model="",
        chat_template=None,
        file_bytes=weights,
        tensor_bytes=weights,
        tensors=tensors,
        split_count=1,
    )


def likely_quant(shape: Shape, weights: int) -> str:
    """The quantization whose file would be of about this size."""
    return min(_QUANTS, key=lambda quant: abs(_size(_expected(shape, quant)) - weights))


@cache
def _expected(shape: Shape, quant: str) -> tuple[Tensor, ...]:
    return tensors_of(shape, quant)


def _size(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.bytes for tensor in tensors)


def _scaled(tensors: tuple[Tensor, ...], weights: int) -> tuple[Tensor, ...]:
    size = _size(tensors)
    return tuple(replace(t, bytes=t.bytes * weights // size) for t in tensors)


def expected_header(model: CatalogModel, quant: str) -> Header | None:
    """Of a catalogue file that is not here; None where its size is not even a guess."""
    weights = planned_bytes(model, model.file(quant))
    if weights is None:
        return None
    return replace(planned_header(model.shape, weights, quant), name=f"{model.id}:{quant.lower()}")


def explained(
    error: DoesNotFitError, name: str, quant: str, machine: Machine, wishes: Wishes
) -> DoesNotFitError:
    """The refusal with commands of the catalogue that would fit in its hint."""
    ways: list[str] = []
    entry = load_catalog().get(name)
    if entry is not None:
        worse = [f.quant for f in entry.files if quant_rank(f.quant) > quant_rank(quant)]
        fitting = next((q for q in worse if _fits(entry, q, machine, wishes)), None)
        if fitting is not None:
            ways.append(f"a smaller quantization fits: gemma pull {name}:{fitting.lower()}")
        lesser = _smaller_gemma(entry, machine, wishes)
        if lesser is not None:
            ways.append(f"a smaller Gemma fits: gemma pull {lesser}")
    hint = error.hint or ""
    return DoesNotFitError(error.message, "; ".join([*ways, hint]))


def _fits(entry: CatalogModel, quant: str, machine: Machine, wishes: Wishes) -> bool:
    header = expected_header(entry, quant)
    try:
        return header is not None and attempt(header, machine, wishes)[1]
    except GemmaError:
        return False


def _smaller_gemma(entry: CatalogModel, machine: Machine, wishes: Wishes) -> str | None:
    """The largest one of the family that fits with these wishes."""
    capacity = MachineCapacity(machine, gpu_margin=wishes.gpu_margin)
    family = [m for m in load_catalog().models if m.family == entry.family and not m.base]
    sizes = {m.id: planned_bytes(m, m.files[-1]) or 0 for m in (*family, entry)}
    for other in sorted(family, key=lambda m: -sizes[m.id]):
        if sizes[other.id] < sizes[entry.id]:
            best = best_file(other, capacity)
            if best.fits and _fits(other, best.file.quant, machine, wishes):
                return f"{other.id}:{best.file.quant.lower()}"
    return None
