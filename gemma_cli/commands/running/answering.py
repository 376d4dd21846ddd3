"""One answer to the output that was asked for; Ctrl-C keeps what was said."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from gemma_cli.commands.running.output import FirstBlock, Output, Unseen
from gemma_cli.engine.cache import common_prefix
from gemma_cli.engine.protocol import (
    Done,
    Engine,
    EngineInfo,
    Generation,
    Message,
    Prompt,
    Sampling,
)
from gemma_cli.errors import ExitCode, GemmaError
from gemma_cli.terminal.notices import say
from gemma_cli.terminal.sanitize import clean
from gemma_cli.terminal.thoughts import Thoughts, ThoughtsAndAnswer, View

if TYPE_CHECKING:
    from gemma_cli.commands.loading.opening import ChosenModel
    from gemma_cli.commands.running.asked import Asked
    from gemma_cli.commands.running.keeping import KeptRun
    from gemma_cli.models.store import InstalledModel
    from gemma_cli.terminal.waiting import Waiting


# Tokens; a shorter prompt is evaluated as quickly as it is found again.
_LONG_PROMPT = 256


class Answering:
    """Runs one request and writes its answer to the output.

    thinking: as in Engine.render. Thoughts that were asked for are shown when
    stderr is a terminal; JSON holds them always.
    """

    def __init__(
        self, engine: Engine, output: Output, *, stats: bool, thinking: bool | None = None
    ) -> None:
        self._engine = engine
        self._output = output
        self._stats = stats
        self._thinking = thinking
        self._text: list[str] = []
        self._thoughts: list[str] = []
        self.reusable_tokens = 0  # of the prompt, that another question may begin with

    def answer(
        self, installed: InstalledModel, asked: Asked, sampling: Sampling, *, as_json: bool
    ) -> int:
        """Write the answer; the exit code. as_json: as one object in the end, of the contract."""
        with _waiting("loading the model", self._engine.progress):
            info = self._engine.info()
        for warning in info.warnings:
            say(warning)
        prompt = self._prompt(asked, thinks=info.thinks)
        generation = self._engine.generate(prompt, sampling)
        if asked.kept is not None:
            asked.kept.begin(installed, sampling, thinking=self._thinking)
        try:
            with _ctrl_c_cancels(generation):
                done = self._stream(generation, asked.kept)
        except GemmaError as error:
            if as_json:
                self._print_json(installed, {"stop_reason": "error", "error": error.message})
            raise
        if as_json:
            report = _report(done, self._engine.info())
            if asked.kept is not None:
                report["chat"] = asked.kept.chat
            self._print_json(installed, report, parsed=bool(done.satisfied))
        if self._output.enough:
            done = replace(done, stop_reason="end")  # we stopped it, not the user
        self._tell(done, sampling)
        if done.stop_reason == "cancelled":
            return ExitCode.CANCELLED
        return self._extracted()

    def _prompt(self, asked: Asked, *, thinks: bool) -> Prompt:
        engine = self._engine
        if self._thinking:
            _check_thinks(asked.raw is not None, thinks=thinks)
        if asked.raw is not None:
            prompt = engine.raw(asked.raw)
        else:
            prompt = engine.render(asked.messages, thinking=self._thinking)
        prompt = self._with_stable_part(prompt, asked)
        self.reusable_tokens = prompt.stable or len(prompt.tokens)
        return prompt

    def _with_stable_part(self, prompt: Prompt, asked: Asked) -> Prompt:
        """Mark what stays the same when another question is asked about a long text.

        All but the last token where there is no such part: asked again it is
        evaluated in the same batches, and a seed gives the same answer.
        """
        conversation, raw, question = asked.messages, asked.raw, asked.ending
        if len(prompt.tokens) <= _LONG_PROMPT:
            return prompt
        whole = replace(prompt, stable=len(prompt.tokens) - 1)
        if not question:
            return whole
        # Another question shows where this one begins, in tokens.
        said = raw if raw is not None else conversation[-1].text
        other = said.removesuffix(question) + "?"
        prompted = (
            self._engine.raw(other)
            if raw is not None
            else self._engine.render(
                [*conversation[:-1], Message("user", other)], thinking=self._thinking
            )
        )
        stable = common_prefix(prompt.tokens, prompted.tokens)
        return replace(prompt, stable=stable) if stable >= _LONG_PROMPT else whole

    def _stream(self, generation: Generation, kept: KeptRun | None) -> Done:
        """Show and keep the answer as it comes; whatever ends it, its text is saved."""
        done = None
        try:
            with (
                closing(self._views()) as views,
                _waiting("evaluating the prompt", generation.prefill) as waiting,
            ):
                for value in generation:
                    waiting.end()
                    if isinstance(value, Done):
                        done = value
                        return value
                    (self._thoughts if value.thought else self._text).append(value.text)
                    if not self._output.enough:
                        views.show(value.text, thought=value.thought)
                    if kept is not None:
                        kept.grow(self._text, self._thoughts)
                    elif self._output.enough:
                        generation.cancel()
        finally:
            if kept is not None:
                kept.end(done, self._text, self._thoughts)
            self._output.end()
        raise AssertionError("a generation ends with Done")

    def _views(self) -> ThoughtsAndAnswer:
        from gemma_cli.terminal.writer import wants_style

        def thoughts() -> View:
            seen = self._thinking and not isinstance(self._output, Unseen) and sys.stderr.isatty()
            return Thoughts(sys.stderr, dim=wants_style(sys.stderr)) if seen else Unseen()

        return ThoughtsAndAnswer(thoughts, lambda: self._output)

    def _extracted(self) -> int:
        """The exit code by what of the answer was asked for; an answer without it is shown."""
        output = self._output
        if not isinstance(output, FirstBlock):
            return ExitCode.OK
        if output.found:
            if output.cut:
                say("the code block is not complete")
            return ExitCode.OK
        say("the answer holds no fenced code block. It is:")
        print(clean("".join(self._text)), file=sys.stderr)
        return ExitCode.FAILURE

    def _print_json(
        self, installed: InstalledModel, report: dict[str, Any], *, parsed: bool = False
    ) -> None:
        """parsed: the answer is JSON; it stands there as such too."""
        text = "".join(self._text)
        head = {"text": text, "model": installed.name, "quant": installed.quant}
        if self._thoughts:
            report = {"thoughts": "".join(self._thoughts), **report}
        line = json.dumps(head | report, ensure_ascii=False)
        # The answer's own characters: Python's numbers would lose digits, or become Infinity.
        _print_line(f'{line[:-1]}, "parsed": {text}}}' if parsed else line)

    def _tell(self, done: Done, sampling: Sampling) -> None:
        if done.stop_reason == "cancelled":
            say("stopped")
        elif done.stop_reason == "length":
            if sampling.max_tokens and done.usage.completion_tokens >= sampling.max_tokens:
                say(f"the answer was cut at --max-tokens {sampling.max_tokens}")
            else:
                say(
                    f"the answer was cut: the context window of {done.n_ctx} tokens is full "
                    "(--ctx max gives the largest)"
                )
        if done.satisfied is False:
            say("the answer is not complete: it does not satisfy the schema")
        if self._thoughts and not "".join(self._text).strip():
            say("the model has only thought: its answer did not begin")
        elif done.stop_reason == "end" and not "".join(self._text).strip():
            say("the answer is empty: the model ended it at once")
        if self._stats:
            say(f"{describe(done)} · {_threads(self._engine.info())}")


def describe(done: Done) -> str:
    """The figures of an answer in one line."""
    usage, timings = done.usage, done.timings
    cached = f" ({usage.cached_tokens} cached)" if usage.cached_tokens else ""
    drafts = f" ({usage.accepted_tokens}/{usage.drafted_tokens} drafts right)"
    return (
        f"prompt {usage.prompt_tokens} tokens{cached}, {timings.prompt_tps:.0f} tok/s · "
        f"answer {usage.completion_tokens} tokens, {timings.decode_tps:.1f} tok/s"
        f"{drafts if usage.drafted_tokens else ''} · "
        f"first token {timings.ttft_s:.2f} s · load {timings.load_s:.2f} s · "
        f"context {done.used}/{done.n_ctx} · seed {done.seed}"
    )


def print_prompt(
    chosen: ChosenModel,
    conversation: Sequence[Message],
    raw: str | None,
    *,
    thinking: bool | None = None,
) -> None:
    """The exact prompt as JSON, by the vocabulary alone: no weights are loaded."""
    from gemma_cli.engine.prompting import load_format

    prompt_format, model = load_format(chosen.header, chosen.installed.path)
    if thinking:
        _check_thinks(raw is not None, thinks=prompt_format.thinks)
    prompt: Prompt = (
        prompt_format.raw(raw) if raw is not None else prompt_format.render(conversation, thinking)
    )
    model.close()
    shown = {
        "text": prompt.text,
        "tokens": list(prompt.tokens),
        "segments": [asdict(segment) for segment in prompt.segments],
    }
    _print_line(json.dumps(shown, ensure_ascii=False))


def _print_line(line: str) -> None:
    from gemma_cli.commands.past.remembering import write_json

    write_json(f"{line}\n")
    sys.stdout.flush()


@contextmanager
def _waiting(what: str, progress: Callable[[], float]) -> Iterator[Waiting]:
    """Whoever sits there sees how far it is, once it takes long."""
    from gemma_cli.terminal.waiting import Waiting
    from gemma_cli.terminal.writer import wants_style

    paints = sys.stderr.isatty() and wants_style(sys.stderr)
    waiting = Waiting(what, progress, after=1.0, paints=paints)
    try:
        yield waiting
    finally:
        waiting.end()


def _threads(info: EngineInfo) -> str:
    """How many threads made the answer, and why not more."""
    if info.threads < info.planned_threads:
        return f"{info.threads} of {info.planned_threads} threads: the machine is busy"
    return f"{info.threads} thread{'' if info.threads == 1 else 's'}"


def _report(done: Done, info: EngineInfo) -> dict[str, Any]:
    return {
        "stop_reason": done.stop_reason,
        "usage": asdict(done.usage),
        "timings": {name: round(value, 4) for name, value in asdict(done.timings).items()},
        "context": {"n_ctx": done.n_ctx, "used": done.used},
        "gpu_layers": info.gpu_layers,
        "seed": done.seed,
        "threads": info.threads,
        "warnings": list(info.warnings),
    }


def _check_thinks(raw: bool, *, thinks: bool) -> None:
    if raw:
        say("--raw takes no --think: it is left out")
    elif not thinks:
        say("this model cannot be asked to think: it answers at once")


@contextmanager
def _ctrl_c_cancels(generation: Generation) -> Iterator[None]:
    """The first Ctrl-C stops the generation, which then ends in order; a second one ends us."""

    def cancel(_signal: int, _frame: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        generation.cancel()

    before = signal.signal(signal.SIGINT, cancel)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
