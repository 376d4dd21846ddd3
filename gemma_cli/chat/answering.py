"""An answer from the model: waited for, shown and kept as it comes, whatever ends it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from gemma_cli.chat.conversation import Origin, Status, Turn
from gemma_cli.chat.fitting import fitting_prompt
from gemma_cli.chat.interface import Show, Writer
from gemma_cli.chat.interrupts import Interrupt
from gemma_cli.chat.session import Session
from gemma_cli.engine.protocol import Done, Engine, Generation, Message, Prompt

NO_THOUGHTS = "This model cannot be asked to think: it answers at once."


class Answering:
    """Makes the turns of the model in a session.

    again: an answer that grows is shown from its beginning (on a screen).
    """

    def __init__(self, session: Session, writer: Writer, *, again: bool) -> None:
        self._session = session
        self._writer = writer
        self._again = again
        self._warned: Engine | None = None

    def prompt(self, interrupt: Interrupt) -> Prompt:
        """The prompt of what fits; what no longer does is told. Raises GemmaError."""
        session = self._session
        info = session.engine.info()
        if self._warned is not session.engine:
            self._warned = session.engine
            for warning in info.warnings:
                self._writer.say(warning)
        if session.thinking and not info.thinks:
            session.thinking = None
            self._writer.say(NO_THOUGHTS)

        def write(messages: Sequence[Message], limit: int, heading: str) -> Any:
            return self.write(messages, limit, heading, interrupt)

        return fitting_prompt(session, self._writer.say, write)

    def answer(self, prompt: Prompt, interrupt: Interrupt) -> None:
        """Add the model's turn after the leaf."""
        generation = self._session.engine.generate(prompt, self._session.sampling)
        with interrupt.calling(generation.cancel):
            turn = self._session.conversation.add("assistant", "", "streaming", self._origin())
            self._take(generation, turn)

    def go_on(self, turn: Turn, prompt: Prompt, interrupt: Interrupt) -> None:
        """Let a turn grow; a sibling where others build on it, or another model said it."""
        session = self._session
        generation = session.engine.generate(prompt, session.sampling)
        with interrupt.calling(generation.cancel):
            conversation = session.conversation
            origin = turn.origin
            same = origin is not None and origin.model_sha == session.model_sha
            if conversation.children(turn.id) or not same:
                conversation.go_to(turn.parent)
                grown = conversation.add("assistant", turn.text, "streaming", self._origin())
                turn = conversation.change(grown.id, turn.text, "streaming", thoughts=turn.thoughts)
            else:
                turn = conversation.change(
                    turn.id, turn.text, "streaming", self._origin(), turn.thoughts
                )
            self._take(generation, turn)

    def write(
        self, messages: Sequence[Message], max_tokens: int, heading: str, interrupt: Interrupt
    ) -> tuple[str, dict[str, Any]]:
        """As in Talk."""
        session = self._session
        sampling = replace(session.sampling, max_tokens=max_tokens, stop=(), schema=None)
        thinking = False if session.engine.info().thinks else None
        prompt = session.engine.render(messages, thinking=thinking)
        generation = session.engine.generate(prompt, sampling)
        text: list[str] = []
        done: Done | None = None
        writer, prefill = self._writer, generation.prefill
        with interrupt.calling(generation.cancel), writer.aside(heading, prefill) as show:
            for value in generation:
                if isinstance(value, Done):
                    done = value
                elif not value.thought:
                    text.append(value.text)
                    show(value.text)
        assert done is not None, "a generation ends with Done"
        if done.stop_reason == "cancelled":
            raise KeyboardInterrupt
        return "".join(text), {**asdict(done.usage), **asdict(done.timings)}

    def _origin(self) -> Origin:
        session = self._session
        params = asdict(session.sampling)
        if session.thinking is not None:
            params["thinking"] = session.thinking
        return Origin(session.label, session.model_sha, params)

    def _take(self, generation: Generation, turn: Turn) -> None:
        self._session.journal.save(self._session.conversation)
        with self._writer.answer(generation.prefill) as show:
            if turn.text and self._again:
                show(turn.text)
            done = self._stream(generation, turn, show)
        self._session.count(done)
        answer = self._session.conversation[turn.id]
        if turn.text and answer.text == turn.text and done.stop_reason == "end":
            self._writer.say("The model adds nothing: its answer ends there.")
        self._tell_how_it_ended(done, answer)

    def _stream(self, generation: Generation, turn: Turn, show: Show) -> Done:
        """Show and keep the answer as it comes; whatever ends it, its text is saved."""
        session = self._session
        pieces: list[str] = [turn.text]
        thoughts: list[str] = [turn.thoughts]

        def keep(status: Status, origin: Origin | None = None) -> None:
            session.conversation.change(turn.id, "".join(pieces), status, origin, "".join(thoughts))
            session.journal.save(session.conversation)

        status: Status = "cancelled"
        origin = turn.origin
        try:
            for value in generation:
                if isinstance(value, Done):
                    status = {"cancelled": "cancelled", "error": "error"}.get(
                        value.stop_reason, "complete"
                    )  # type: ignore[assignment]
                    origin = with_figures(turn.origin, value)
                    return value
                (thoughts if value.thought else pieces).append(value.text)
                show(value.text, thought=value.thought)
                if session.journal.due():
                    keep("streaming")
        except Exception as error:
            if not isinstance(error, OSError):  # else the reader left: a kind of cancelling
                status = "error"
            raise
        finally:
            keep(status, origin)
        raise AssertionError("a generation ends with Done")

    def _tell_how_it_ended(self, done: Done, answer: Turn) -> None:
        limit = self._session.sampling.max_tokens
        on = " /continue goes on with it." if answer.text.strip() else ""
        if done.stop_reason == "cancelled" and not (answer.text or answer.thoughts):
            self._writer.say("Stopped before the answer began. /regen has the question answered.")
        elif done.stop_reason == "cancelled":
            self._writer.say(f"Stopped. What was said is kept.{on}")
        elif done.stop_reason == "length" and limit and done.usage.completion_tokens >= limit:
            self._writer.say(f"The answer was cut at max_tokens {limit}.{on}")
        elif done.stop_reason == "length":
            if on and not self._fits_alone():
                on = " A larger one can go on with it: /set ctx max, then /continue."
            self._writer.say(
                f"The answer was cut: the context window of {done.n_ctx:,} tokens is full.{on}"
            )
        if answer.thoughts and not answer.text.strip():
            self._writer.say("The model has only thought: its answer did not begin.")
        elif done.stop_reason == "end" and not answer.text.strip():
            self._writer.say("The answer is empty: the model ended it at once. /regen tries again.")

    def _fits_alone(self) -> bool:
        """Whether the window can hold more of the answer when all that came before has left."""
        session = self._session
        messages = session.conversation.messages(len(session.conversation.standing()) - 1)
        prompt = session.engine.render(messages, thinking=session.thinking)
        return len(prompt.tokens) < session.engine.info().n_ctx


def was_cut(turn: Turn) -> bool:
    """Whether an answer did not end by itself, as far as is known."""
    ended = turn.origin is not None and turn.origin.counts.get("stop_reason") == "end"
    return turn.status != "complete" or not ended


def with_figures(origin: Origin | None, done: Done) -> Origin | None:
    """With the seed, the counts and the speed that the answer had."""
    if origin is None:
        return None
    return replace(
        origin,
        params={**origin.params, "seed": done.seed},
        counts={
            **asdict(done.usage),
            **asdict(done.timings),
            "n_ctx": done.n_ctx,
            "stop_reason": done.stop_reason,
        },
    )
