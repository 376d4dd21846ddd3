"""A model and its context by the plan; where memory fails all the same, by one smaller plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gemma_cli.engine.context import Context
from gemma_cli.engine.headroom import NoMemoryError
from gemma_cli.engine.library import AbortFlag
from gemma_cli.engine.mapping import release_repacked
from gemma_cli.engine.model import Model
from gemma_cli.engine.setup import Setup
from gemma_cli.errors import DoesNotFitError
from gemma_cli.machine.memory import Plan


@dataclass(frozen=True, slots=True)
class Allocated:
    """plan: the one that was carried out. warnings: what about it must be said."""

    model: Model
    context: Context
    plan: Plan
    warnings: tuple[str, ...] = ()


def allocate(setup: Setup, on_progress: Callable[[float], bool]) -> Allocated:
    """Load by the plan, or one step below it. Raises as Model and Context do.

    DoesNotFitError if neither could be had, or if there is no smaller plan.
    """
    plan = setup.weights.plan
    try:
        return _by(plan, setup, on_progress)
    except NoMemoryError as failure:
        smaller = _smaller(setup, failure)
        if smaller is None:
            raise
        first = failure
    try:
        second = _by(smaller, setup, on_progress)
    except NoMemoryError as failure:
        message = f"{first.message}; one step down ({smaller.why}): {failure.message}"
        raise DoesNotFitError(message, failure.hint) from failure
    told = f"{first.message}; going on with {smaller.why}"
    return Allocated(second.model, second.context, smaller, (told,))


def _smaller(setup: Setup, failure: NoMemoryError) -> Plan | None:
    """The step down, None where it is of no help: the host has all weights mapped by any plan."""
    if setup.smaller is None or (failure.weights and not failure.on_gpu):
        return None
    return setup.smaller(setup.weights.plan, on_gpu=failure.on_gpu)


def _by(plan: Plan, setup: Setup, on_progress: Callable[[float], bool]) -> Allocated:
    weights = setup.weights
    model = Model(
        weights.path,
        plan.gpu_layers,
        split=plan.split,
        experts_on_host=plan.experts_on_host,
        adapters=setup.adapters,
        on_progress=on_progress,
    )
    try:
        release_repacked(weights.path, weights.header)
        return Allocated(model, Context(model, plan, AbortFlag()), plan)
    except BaseException:
        model.close()
        raise
