"""Nothing is installed and a person is there: offer the best Gemma for this machine."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from gemma_cli.machine.devices import Machine
    from gemma_cli.models.choice import Choice
    from gemma_cli.models.entries import CatalogModel

# The newest first; the older one has smaller models.
_FAMILIES = ("gemma4", "gemma3")


def offer_download() -> str | None:
    """Ask, and pull on a yes: the model's name. None: nobody to ask, or a no."""
    if not all(stream and stream.isatty() for stream in (sys.stdin, sys.stderr)):
        return None
    from gemma_cli.commands.asking import confirm
    from gemma_cli.commands.pull import pull
    from gemma_cli.machine.devices import this_machine
    from gemma_cli.terminal.tables import size

    found = best_model(this_machine())
    if found is None:
        return None
    model, choice = found
    name = f"{model.id}:{choice.file.quant.lower()}"
    typer.echo(
        f"No model is installed yet. The best {model.title.rpartition(' ')[0]} for this machine is "
        f"{name} ({size(choice.file.planning_size, about=choice.file.size is None)}).",
        err=True,
    )
    if not confirm("Download it now?", nothing_done="nothing was downloaded", default=True):
        return None
    pull([name])
    return name


def best_model(machine: Machine) -> tuple[CatalogModel, Choice] | None:
    """The largest chat model, in its best quantization, that runs well; newest family first."""
    from gemma_cli.commands.planning.fitting import MachineCapacity
    from gemma_cli.models.choice import best_file
    from gemma_cli.models.entries import load_catalog

    if not machine.gpus:
        # On a CPU a model that fills the memory also answers at a walking pace.
        machine = replace(machine, host=replace(machine.host, free=machine.host.free // 2))
    capacity = MachineCapacity(machine, whole_on_gpu=bool(machine.gpus))
    for family in _FAMILIES:
        fitting = [
            (choice.fit.needed, (model, choice))
            for model in load_catalog().models
            if model.family == family and not model.base
            for choice in [best_file(model, capacity)]
            if choice.fit and choice.fit.fits
        ]
        if fitting:
            return max(fitting, key=lambda pair: pair[0])[1]
    return None
