"""Bytes of a plan beside llama.cpp's own, for check_offload.py."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import rpc_devices

from gemma_cli.machine.devices import Machine
from gemma_cli.machine.plans import Plan

MIB = 1 << 20
MARGIN = 1024  # MiB that the planner leaves free on each device, as it does for a GPU
FIGURES = ("weights", "kv", "compute")
TOLERANCE = {"weights": MIB, "kv": MIB, "compute": 16 * MIB}


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of bytes twice. device: "host", or the device's number from 0."""

    device: str
    what: str
    planned: int
    real: int

    @property
    def agrees(self) -> bool:
        return abs(self.planned - self.real) <= max(self.real // 50, TOLERANCE[self.what])


def machine_with(devices: Sequence[tuple[str, int]], free: Sequence[int]) -> Machine:
    """This machine, its devices as large as stated. free: MiB beyond the margin."""
    from gemma_cli.machine.devices import this_machine

    for endpoint, _ in devices:
        rpc_devices.register(endpoint)
    rpc_devices.behave_as_gpus()
    machine = this_machine()
    gpus = tuple(
        replace(gpu, free=(MARGIN + size) * MIB, total=(MARGIN + size) * MIB, backend="GPU")
        for gpu, size in zip(machine.gpus, free, strict=True)
    )
    return replace(machine, gpus=gpus)


def figures_of(made: Plan, real: dict[str, dict[str, int]]) -> Iterator[Figure]:
    for number, share in enumerate(made.shares):
        device = str(number - 1) if number else "host"
        for what in FIGURES:
            yield Figure(device, what, getattr(share, what), real[what].get(device, 0))


def counted_by_llama(path: Path, made: Plan, names: Sequence[str]) -> dict[str, dict[str, int]]:
    """Bytes by figure and device, as llama.cpp would allocate them for a plan."""
    from tests.breakdown import Weightless

    opened = Weightless(path, made.gpu_layers, made.split, made.experts_on_host)
    accounts = opened.accounts(made)
    opened.close()
    real: dict[str, dict[str, int]] = {what: {} for what in FIGURES}
    for buffer, account in accounts.items():
        device = device_of(buffer, names)
        sizes = (account.model, account.context, account.compute)
        for what, size in zip(FIGURES, sizes, strict=True):
            real[what][device] = real[what].get(device, 0) + size
    return real


def device_of(buffer_type: str, names: Sequence[str]) -> str:
    return str(names.index(buffer_type)) if buffer_type in names else "host"


def pair(figure: Figure) -> str:
    mark = "" if figure.agrees else " !"
    return f"{figure.planned / MIB:.1f}/{figure.real / MIB:.1f}{mark}"
