"""The plan to load by: where it is tight, llama.cpp is asked first, and the plan corrected."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gemma_cli.errors import DoesNotFitError
from gemma_cli.machine.devices import Device, Machine
from gemma_cli.machine.memory import HOST_MARGIN, Plan, Wishes, plan
from gemma_cli.models.gguf import Header
from gemma_cli.models.store import InstalledModel
from gemma_cli.terminal.notices import say

if TYPE_CHECKING:
    from gemma_cli.engine.simulation import Simulated

# The compute buffer is planned to 16 MiB; scripts/check_memory.py and check_offload.py show it.
_TIGHT = 64 << 20


def plan_to_load(
    installed: InstalledModel, header: Header, machine: Machine, wishes: Wishes
) -> Plan:
    """The plan for a machine as it is now. DoesNotFitError names what would fit."""
    try:
        made = plan(header, machine, wishes)
        if wishes.force and not made.fits(wishes.gpu_margin):
            say(f"{installed.name}: {made.why}")
        if wishes.force or not is_tight(made, wishes):
            return made  # a quarter of a second saved, at each start
        said = ask_llama_cpp(installed.path, made)
        return corrected(made, said, header, machine, wishes)
    except DoesNotFitError as error:
        from gemma_cli.commands.planning.fitting import explained

        raise explained(error, installed.name, installed.quant, machine, wishes) from error


def is_tight(made: Plan, wishes: Wishes) -> bool:
    """Whether a device is so full that the estimate of the compute buffer could matter."""
    gpus = [share.left - wishes.gpu_margin for share in made.shares[1:] if share.layers]
    return min([made.host.left - HOST_MARGIN, *gpus]) < _TIGHT


def ask_llama_cpp(path: Path, made: Plan) -> Simulated:
    """llama.cpp's own figures for a file that was admitted."""
    from gemma_cli.engine.simulation import Simulation

    simulation = Simulation(path, made.gpu_layers, made.split, made.experts_on_host)
    try:
        return simulation.ask(made)
    finally:
        simulation.close()


def corrected(
    made: Plan, said: Simulated, header: Header, machine: Machine, wishes: Wishes
) -> Plan:
    """The plan, or another one that leaves room for what llama.cpp needs beyond it; said."""
    more = beyond(made, said)
    margins = [HOST_MARGIN, *(wishes.gpu_margin for _ in made.shares[1:])]
    over = [
        share.device.name
        for share, extra, margin in zip(made.shares, more, margins, strict=True)
        if extra > 0 and share.left - extra < margin
    ]
    if not over:
        return made
    by_device = {
        (share.device.id, share.device.name): max(0, extra)
        for share, extra in zip(made.shares, more, strict=True)
    }

    def less(device: Device) -> Device:
        return replace(device, free=device.free - by_device.get((device.id, device.name), 0))

    smaller = replace(machine, host=less(machine.host), gpus=tuple(map(less, machine.gpus)))
    again = plan(header, smaller, wishes)
    say(f"llama.cpp needs more than planned on {', '.join(over)}: {again.why}")
    return again


def beyond(made: Plan, said: Simulated) -> list[int]:
    """Bytes of compute buffer that llama.cpp wants beyond the plan, by share; negative: fewer."""
    ids = [share.device.id for share in made.shares[1:]]
    host = sum(size for name, size in said.compute.items() if name not in ids)
    gpus = [said.compute.get(share.device.id, 0) - share.compute for share in made.shares[1:]]
    return [host - made.host.compute, *gpus]
