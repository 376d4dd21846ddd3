"""A GPU that is here and not used: said by every command that loads a model."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from gemma_cli.terminal.notices import say

if TYPE_CHECKING:
    from gemma_cli.machine.graphics import GraphicsCard

_STATE = "unused-gpu.json"


@cache
def say_unused_gpu(wanted: int | str | None) -> None:
    """Once a process, on stderr: which GPU this llama.cpp cannot use, and what to type.

    wanted: --gpu-layers; 0 silences it, and where layers are asked for in vain it is
    always said. A discrete GPU (or Apple's) is worth a reminder at every start, for
    it makes answers many times faster. An integrated one reads the same memory as
    the CPU: it is mentioned once on this machine, and by `gemma doctor`.
    """
    from gemma_cli.machine.devices import backends, gpus
    from gemma_cli.machine.graphics import graphics_cards, hidden_by_environment

    if wanted == 0 or gpus():
        return
    hidden = hidden_by_environment()
    cards = [] if hidden else [card for card in graphics_cards() if card.driver]
    if wanted is not None and not cards:
        built = "for CPUs only" if backends() == ("CPU",) else f"with {', '.join(backends())}"
        found = f"{hidden} hides any GPU" if hidden else "no GPU was found here"
        say(
            f"--gpu-layers {wanted}: this llama.cpp is built {built}, and {found}: all layers stay"
            " on the CPU (--gpu-layers 0 silences this):\n  gemma doctor"
        )
        return
    if not cards or (wanted is None and cards[0].integrated and not _is_new(cards[0])):
        return
    what, command = unused(cards[0], backends())
    say(f"{what} (--gpu-layers 0 silences this):")
    print(f"  {command}", file=sys.stderr)  # to be copied: no line break of ours in it


def unused(card: GraphicsCard, backends: Sequence[str]) -> tuple[str, str]:
    """(why this llama.cpp does not use a card, the command that mends it)"""
    from gemma_cli.commands.loading.reinstalling import reinstall_llama
    from gemma_cli.machine.cpu import is_translated
    from gemma_cli.machine.graphics import build_for

    if is_translated():
        return (
            f"{card.name} is not used: this Python was built for Intel Macs. Install one for"
            " Apple Silicon, and gemma with it",
            "uv tool install --python cpython-3.12-macos-aarch64 gemma-cli",
        )

    driving = [backend for backend in card.backends if backend in backends]
    if driving:
        check = "nvidia-smi" if card.vendor == "nvidia" else "gemma doctor"
        return (
            f"{card.name} is not used: {driving[0]}, which this llama.cpp was built with,"
            " finds no device; ask its driver",
            check,
        )
    build = build_for(card)
    return (
        f"{card.name} is not used: llama.cpp was built without {build.backend};"
        f" with {build.needs} it can be built anew",
        reinstall_llama(build.option),
    )


def _is_new(card: GraphicsCard) -> bool:
    """Whether an integrated GPU was not mentioned on this machine yet; from now on it was."""
    from gemma_cli.models.state import read_state, write_state

    told = read_state(_STATE)
    if told.get(card.name):
        return False
    write_state(_STATE, told | {card.name: True})
    return True
