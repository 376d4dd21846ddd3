"""The model of a running chat, and going on with another one or another way of loading it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemma_cli.chat.session import Model
from gemma_cli.commands.loading import opening
from gemma_cli.errors import DoesNotFitError

if TYPE_CHECKING:
    from gemma_cli.commands.loading.opening import ChosenModel
    from gemma_cli.commands.options import GenerationOptions
    from gemma_cli.engine.llama import LlamaEngine
    from gemma_cli.engine.protocol import Engine
    from gemma_cli.settings import Settings

_PLACEMENT = ("ctx", "gpu_layers", "threads", "kv_type", "gpu_margin", "draft")


def short(name: str) -> str:
    """A model's name for one line: of one that is named by its path the file alone."""
    path = Path(name)
    return path.name if path.is_absolute() else name


class ModelsHere:
    """Satisfies chat.session's Models with the files on this machine.

    keeps: evaluated prompts are kept on disk. resumes: one is expected there.
    plain: what could be drawn is said in words.
    """

    def __init__(
        self,
        chosen: ChosenModel,
        asked: GenerationOptions,
        settings: Settings,
        *,
        keeps: bool,
        resumes: bool = False,
        plain: bool = False,
    ) -> None:
        self._plain = plain
        self._settings = settings
        self._keeps = keeps
        self._chosen, self._asked = chosen, asked
        self._engine = self._started(chosen, asked, resumes)
        self._model = self._described()

    @property
    def present(self) -> Model:
        return self._model

    def close(self) -> None:
        self._engine.close()

    def keep_state(self) -> None:
        """The evaluated prompt goes to disk, for the next time."""
        opening.keep_state(self._engine)

    def forget(self) -> None:
        from gemma_cli.commands.past.forgetting import forget_evaluated

        self._engine.forget()
        forget_evaluated()

    def names(self) -> list[str]:
        from gemma_cli.models.store import installed

        return [model.ref for model in installed()]

    def facts(self) -> str:
        from gemma_cli.terminal.tables import size

        installed, info = self._chosen.installed, self._engine.info()
        others = [name for name in self.names() if name not in (installed.ref, installed.name)]
        return "\n".join(
            (
                f"model      {installed.name}  {installed.quant}, {size(installed.bytes)}",
                f"file       {installed.path}",
                f"context    {info.n_ctx:,} of {info.n_ctx_train:,} tokens",
                f"layers     {info.gpu_layers} of {info.n_layers + 1} on a GPU",
                f"threads    {info.threads}",
                f"here too   {', '.join(others) or 'no other model'}",
            )
        )

    def plan(self) -> str:
        from gemma_cli.commands.planning.view import devices_text, devices_words

        made = self._engine.plan()
        devices = devices_words(made) if self._plain else devices_text(made).rstrip()
        return f"{made.why}\n{devices}"

    def placement(self) -> Mapping[str, str]:
        return {name: str(getattr(self._asked, name) or "auto") for name in _PLACEMENT}

    def open(
        self, name: str | None, changes: Mapping[str, str], wait: Callable[[Engine], None]
    ) -> list[str]:
        chosen = self._chosen if name is None else opening.choose_model(name, self._settings)
        if not changes and chosen.installed.path == self._chosen.installed.path:
            return [f"{short(chosen.installed.name)} is loaded already."]
        wishes: dict[str, Any] = {
            key: None if value.lower() in ("auto", "none") else value
            for key, value in changes.items()
        }
        asked = replace(self._asked, **wishes)
        opening.wishes_from(asked)  # what cannot be meant is refused before anything is closed
        first = self._engine.info().gpu_layers > 0
        if not first:
            try:
                engine = self._started(chosen, asked)
            except DoesNotFitError:
                first = True
        if first:
            self._open_alone(chosen, asked, wait)
        else:
            try:
                wait(engine)
            except BaseException:
                engine.close()
                raise
            before, self._engine = self._engine, engine
        self._chosen, self._asked = chosen, asked
        self._model = self._described()
        if not first:
            before.close()
        return self._notes(changes, closed_first=first)

    def _open_alone(
        self, chosen: ChosenModel, asked: GenerationOptions, wait: Callable[[Engine], None]
    ) -> None:
        """Close the present engine, then start the other; on failure the present one again."""
        engine: LlamaEngine | None = None
        try:
            self._engine.close()
            engine = self._started(chosen, asked)
            wait(engine)
            self._engine = engine
        except BaseException:
            if engine is not None:
                engine.close()
            self._engine = self._started(self._chosen, self._asked)
            self._model = self._described()
            raise

    def _notes(self, changes: Mapping[str, str], *, closed_first: bool) -> list[str]:
        installed, info = self._chosen.installed, self._engine.info()
        quant = f" ({installed.quant})" if installed.quant else ""
        wishes = "".join(f", {name} {value}" for name, value in changes.items())
        notes = [
            f"{short(installed.name)}{quant} answers from here on: "
            f"a context of {info.n_ctx:,} tokens, "
            f"{info.gpu_layers} of {info.n_layers + 1} layers on a GPU{wishes}."
        ]
        if closed_first:
            notes.append("The model before it was closed first: memory is for one of them.")
        base = None if changes else opening.base_model_notice(self._chosen)
        return [*notes, base] if base else notes

    def _started(
        self, chosen: ChosenModel, asked: GenerationOptions, resumes: bool = False
    ) -> LlamaEngine:
        snapshots = None
        if self._keeps:
            snapshots = opening.snapshot_place(chosen, self._settings, expected=resumes)
        return opening.start_engine(chosen, asked, snapshots)

    def _described(self) -> Model:
        installed = self._chosen.installed
        sampling = opening.sampling_from(self._chosen.sampling, self._asked)
        return Model(self._engine, installed.name, installed.sha256, sampling)
