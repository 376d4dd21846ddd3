"""Which quantization to take: the best whose weights this machine can hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from gemma_cli.models.entries import CatalogFile, CatalogModel, Shape

# Publishers keep some tensors finer than a quantization's name says.
_CAUTION = 1.1


@dataclass(frozen=True, slots=True)
class Fit:
    """needed: bytes in memory with a useful context. fits: whether this machine has them.

    fast: nothing of it has to stay on the host of a machine with a GPU.
    """

    needed: int
    fits: bool
    fast: bool = True


class Capacity(Protocol):
    """What a machine can hold. free: bytes that a model may take, GPUs included."""

    @property
    def free(self) -> int: ...

    def fit(self, shape: Shape, weights: int, beside: int = 0) -> Fit: ...


@dataclass(frozen=True, slots=True)
class Choice:
    """The file to take, and how it fits; fit None where its size is not even a guess."""

    file: CatalogFile
    fit: Fit | None

    @property
    def fits(self) -> bool:
        return self.fit is not None and self.fit.fits


def best_file(model: CatalogModel, capacity: Capacity, projector: int = 0) -> Choice:
    """The best quantization that fits beside `projector` bytes, else the smallest one.

    One that a GPU holds whole goes before a better one that it does not. A file
    of unknown size is taken only if there is no other.
    """
    choices = []
    for file in model.files:
        weights = planned_bytes(model, file)
        if weights is None:
            continue
        fit = capacity.fit(model.shape, weights, projector)
        if fit.fits and fit.fast:
            return Choice(file, fit)
        choices.append((fit.needed, Choice(file, fit)))
    if not choices:
        return Choice(model.files[-1], None)
    fitting = [choice for _, choice in choices if choice.fits]
    if fitting:
        return fitting[0]
    return min(choices, key=lambda pair: pair[0])[1]


def planned_bytes(model: CatalogModel, file: CatalogFile) -> int | None:
    """A file's size to plan with: stated, else from a sibling's of about as many bits a weight.

    None without a sibling. The estimate is good to a fifth: enough to choose,
    never shown as the size.
    """
    if file.planning_size:
        return file.planning_size
    bits = _bits(file.quant)
    siblings = [(_bits(f.quant), f.planning_size) for f in model.files if f.planning_size]
    known = [(abs(other - bits), other, size) for other, size in siblings if other]
    if not bits or not known:
        return None
    _, other, size = min(known)
    return int(size * bits / other * _CAUTION)


def _bits(quant: str) -> float:
    """About how many bits a weight takes."""
    table = {"Q8_0": 8.5, "Q6_K": 6.56, "Q5_K_M": 5.7, "Q4_K_M": 4.9, "Q4_0": 4.6}
    return table.get(quant.removeprefix("UD-").removeprefix("QAT_"), 0.0)
