"""From a name (or none) to an engine that is loading: what every talking command does first."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from gemma_cli.commands.options import GenerationOptions, number_or_word
from gemma_cli.errors import ModelNotFoundError, UsageError
from gemma_cli.settings import Settings
from gemma_cli.terminal.notices import say

if TYPE_CHECKING:
    from gemma_cli.engine.llama import LlamaEngine
    from gemma_cli.engine.protocol import Sampling
    from gemma_cli.engine.setup import SnapshotPlace, Weights
    from gemma_cli.machine.memory import Plan, Wishes
    from gemma_cli.models.adapter import Adapter
    from gemma_cli.models.gguf import Header
    from gemma_cli.models.store import InstalledModel


_KV_CACHE_BYTES = 4 << 30  # on disk, of all models together


@dataclass(frozen=True, slots=True)
class ChosenModel:
    """A model file on this machine, its header, and how its makers sample from it."""

    installed: InstalledModel
    header: Header
    sampling: Sampling


def choose_model(name: str | None, settings: Settings) -> ChosenModel:
    """The model to use: named, or set, or last used, or the only one here.

    With none here, a person at a terminal is offered one; else ModelNotFoundError
    names the commands to type.
    """
    from gemma_cli.engine.protocol import Sampling
    from gemma_cli.models.catalog import load_catalog, parse_name
    from gemma_cli.models.demo import DEMO_ID, assembled, demo_parts
    from gemma_cli.models.headers import known_header
    from gemma_cli.models.store import find, remember_use

    ref = parse_name(name or _default_name(settings))
    if ref.name == DEMO_ID and demo_parts() and not assembled():
        say("joining the parts of the embedded model, once")
    installed = find(ref)
    header = known_header(installed.path)
    remember_use(installed)
    entry = load_catalog().get(installed.name)
    recommended = Sampling()
    if entry is not None:
        advice = entry.sampling
        recommended = Sampling(
            temperature=advice.temperature,
            top_k=advice.top_k,
            top_p=advice.top_p,
            min_p=advice.min_p,
            repeat_penalty=advice.repeat_penalty,
        )
    return ChosenModel(installed, header, recommended)


def choose_model_for(named: str | None, held_with: str | None, settings: Settings) -> ChosenModel:
    """The model that is named, else the one that a past chat was held with, else any."""
    if named or not held_with:
        return choose_model(named, settings)
    try:
        return choose_model(held_with, settings)
    except ModelNotFoundError as error:
        hint = f"{error.hint}    or go on with another one: -m MODEL"
        raise ModelNotFoundError(f"the chat's model is missing: {error.message}", hint) from error


def _default_name(settings: Settings) -> str:
    from gemma_cli.models.store import installed, last_used

    named = os.environ.get("GEMMA_MODEL") or settings.model or last_used()
    if named:
        return named
    here = installed()
    if len(here) == 1:
        return here[0].ref
    if here:
        names = ", ".join(model.ref for model in here[:6])
        raise ModelNotFoundError(
            f"several models are here, and none is named: {names}",
            f"name one: -m {here[0].ref}; or set it once: export GEMMA_MODEL=NAME",
        )
    from gemma_cli.commands.loading.offering import offer_download

    downloaded = offer_download()
    if downloaded:
        return downloaded
    raise ModelNotFoundError(
        "no model is installed yet",
        "download one: gemma pull gemma3:4b    (all of them: gemma list --available)",
    )


def plan_for(header: Header, wishes: Wishes, beside: Plan | None = None) -> Plan:
    """The memory plan for this machine as it is now, or with another plan carried out."""
    from gemma_cli.machine.devices import this_machine
    from gemma_cli.machine.memory import plan, remaining

    machine = this_machine()
    return plan(header, machine if beside is None else remaining(machine, beside), wishes)


def start_engine(
    chosen: ChosenModel,
    asked: GenerationOptions,
    snapshots: SnapshotPlace | None = None,
) -> LlamaEngine:
    """An engine by the plan for this machine; it returns at once and loads in its own thread.

    An unknown file is tried in a child process first, which takes half a second, once.
    """
    from gemma_cli.commands.loading.confirming import plan_to_load
    from gemma_cli.commands.loading.noticing import say_unused_gpu
    from gemma_cli.commands.loading.stepping import step_down
    from gemma_cli.engine.admission import admit
    from gemma_cli.engine.llama import LlamaEngine
    from gemma_cli.engine.setup import Setup, Weights
    from gemma_cli.machine.devices import this_machine

    adapters = adapters_from(asked, chosen.header)
    wishes = wishes_from(asked)
    wishes = replace(wishes, beside=sum(adapter.path.stat().st_size for adapter in adapters))
    say_unused_gpu(wishes.gpu_layers)
    path = chosen.installed.path
    admit(path, lambda: False)  # here: what it says must not fall into a prompt
    header, machine = chosen.header, this_machine()
    plan = plan_to_load(chosen.installed, header, machine, wishes)
    if plan.n_ctx > plan.n_ctx_max:
        say(
            f"{chosen.installed.name} was trained on {plan.n_ctx_max} tokens: beyond them, "
            f"in the context of {plan.n_ctx}, its answers get worse"
        )
    return LlamaEngine(
        Setup(
            Weights(path, header, plan),
            adapters,
            snapshots,
            speculate=asked.speculate,
            draft=_draft_for(chosen, asked, plan),
            adapt_threads=wishes.threads is None,
            smaller=lambda made, *, on_gpu: step_down(made, header, machine, wishes, on_gpu=on_gpu),
        )
    )


def _draft_for(chosen: ChosenModel, asked: GenerationOptions, plan: Plan) -> Weights | None:
    """The draft model that was asked for, planned for the same context; UsageError if unfit."""
    if not asked.draft:
        return None
    if asked.speculate is False:
        say(f"without speculation no draft model is used: {asked.draft}")
        return None
    from gemma_cli.engine.admission import admit
    from gemma_cli.engine.setup import Weights
    from gemma_cli.machine.memory import Wishes
    from gemma_cli.models.catalog import parse_name
    from gemma_cli.models.headers import known_header
    from gemma_cli.models.inspect import same_vocabulary
    from gemma_cli.models.store import find

    installed = find(parse_name(asked.draft))
    admit(installed.path, lambda: False)
    if not same_vocabulary(chosen.installed.path, installed.path):
        raise UsageError(
            f"--draft {asked.draft}: its vocabulary is not that of {chosen.installed.name}",
            "a draft model is a smaller one of the same generation",
        )
    header = known_header(installed.path)
    wishes = Wishes(n_ctx=min(plan.n_ctx, header.n_ctx_train), threads=plan.threads)
    wishes = replace(wishes, force=bool(asked.force))
    return Weights(installed.path, header, plan_for(header, wishes, beside=plan))


def snapshot_place(
    chosen: ChosenModel, settings: Settings, *, expected: bool
) -> SnapshotPlace | None:
    """Where evaluated prompts are kept on disk; None when that is switched off.

    expected: as in SnapshotPlace.
    """
    from gemma_cli.engine.setup import SnapshotPlace
    from gemma_cli.paths import cache_dir

    limit = kv_cache_limit(settings)
    if not limit:
        return None
    installed = chosen.installed
    status = installed.path.stat()
    model = installed.sha256 or f"{installed.path} {status.st_size} {status.st_mtime_ns}"
    return SnapshotPlace(cache_dir() / "kv", model, limit, expected)


def kv_cache_limit(settings: Settings) -> int:
    """Bytes that evaluated prompts may take on disk; 0: none are kept."""
    from gemma_cli.machine.sizes import parse_size

    asked = os.environ.get("GEMMA_KV_CACHE") or settings.kv_cache
    return parse_size("GEMMA_KV_CACHE", asked) if asked else _KV_CACHE_BYTES


def keep_state(engine: LlamaEngine, n_past: int | None = None) -> None:
    """Keep the evaluated prompt on disk; said if that fails, for the next start will be slower."""
    try:
        engine.keep(n_past)
    except OSError as error:
        say(
            f"the evaluated prompt could not be kept ({error.strerror or error}): "
            "it will be evaluated again. GEMMA_KV_CACHE=0 keeps none"
        )


def adapters_from(asked: GenerationOptions, base: Header) -> tuple[Adapter, ...]:
    """The LoRA adapters, each checked against the model; UsageError for one that is not its."""
    if not asked.lora:
        return ()
    from gemma_cli.models.adapter import check_adapter, parse_adapter

    adapters = tuple(parse_adapter(str(text)) for text in asked.lora)
    for adapter in adapters:
        check_adapter(adapter, base)
    return adapters


def base_model_notice(chosen: ChosenModel) -> str | None:
    """What to say once when the model was never taught to converse."""
    from gemma_cli.engine.prompting import is_base_model

    if not is_base_model(chosen.header, chosen.installed.path):
        return None
    return (
        f"{chosen.installed.name} is a base model, never taught to converse: "
        "it continues an example conversation."
    )


def wishes_from(asked: GenerationOptions) -> Wishes:
    """The wishes about memory; raises UsageError for one that cannot be meant."""
    from gemma_cli.machine.memory import GPU_MARGIN, KV_BLOCK, Wishes
    from gemma_cli.machine.sizes import parse_size

    margin = None if asked.gpu_margin is None else str(asked.gpu_margin)
    kind = (asked.kv_type or "f16").lower()
    if kind not in KV_BLOCK:
        raise UsageError(f"--kv-type takes {', '.join(KV_BLOCK)}, not '{kind}'")
    return Wishes(
        n_ctx=number_or_word("--ctx", asked.ctx, ("max",), least=16),
        gpu_layers=number_or_word("--gpu-layers", asked.gpu_layers, ("all",), least=0),
        threads=number_or_word("--threads", asked.threads, (), least=1),
        kv_type=kind,
        beyond_training=bool(asked.ctx_beyond_training),
        gpu_margin=GPU_MARGIN if margin is None else parse_size("--gpu-margin", margin),
        force=bool(asked.force),
    )


def sampling_from(recommended: Sampling, asked: GenerationOptions) -> Sampling:
    """What was asked for over the model's recommended values; checked."""
    from gemma_cli.engine.protocol import Sampling, check_sampling, parse_logit_bias

    said = {field.name: getattr(asked, field.name, None) for field in fields(Sampling)}
    said["temperature"] = asked.temp
    said["logit_bias"] = tuple(map(parse_logit_bias, asked.logit_bias or ())) or None
    said["stop"] = tuple(asked.stop or ()) or None
    sampling = replace(
        recommended, **{key: value for key, value in said.items() if value is not None}
    )
    check_sampling(sampling)
    return sampling
