"""What an engine is made of. Values only: importing this loads no library."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gemma_cli.machine.memory import Plan
from gemma_cli.models.adapter import Adapter
from gemma_cli.models.gguf import Header


@dataclass(frozen=True, slots=True)
class SnapshotPlace:
    """Where KV states are kept on disk. model: identifies the weights; limit: bytes.

    expected: one will probably be of use; the newest is read while the model loads.
    """

    folder: Path
    model: str
    limit: int
    expected: bool = False


@dataclass(frozen=True, slots=True)
class Weights:
    """A model file, its header, and how it is to be loaded."""

    path: Path
    header: Header
    plan: Plan


@dataclass(frozen=True, slots=True)
class Setup:
    """A model and what helps it.

    adapters: LoRA adapters of the model. snapshots: where evaluated prompts are
    kept on disk, None: nowhere. speculate: guess tokens from the context and
    check them in batches. draft: a small model of the same vocabulary that
    guesses too. adapt_threads: the plan's threads are the most there are; where
    others keep cores busy, an answer is made on fewer.
    """

    weights: Weights
    adapters: tuple[Adapter, ...] = ()
    snapshots: SnapshotPlace | None = None
    speculate: bool = True
    draft: Weights | None = None
    adapt_threads: bool = False
