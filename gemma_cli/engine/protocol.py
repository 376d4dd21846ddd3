"""The values that cross the engine's border, and the two things an engine does.

An Engine turns messages into a Prompt (render) and a Prompt into text
(generate). Nothing here knows llama.cpp: an engine that speaks to a remote
server, or a hand-written one in a test, satisfies the same protocol.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from gemma_cli.errors import UsageError

Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant")

StopReason = Literal["end", "length", "cancelled", "error"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation as data: no part of text is ever a control token."""

    role: Role
    text: str


LogitBias = tuple[int | str, float]
"""(token id, or a text that is one token; what is added to its logit)"""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. Standard names and units of llama.cpp.

    temperature 0 is greedy decoding. top_k 0, top_p 1, min_p 0, repeat_penalty
    1 and 0 for the other penalties, dry_multiplier and xtc_probability switch
    the respective filter off. repeat_last_n, dry_last_n: tokens that the
    penalties and DRY look back on. seed None draws a fresh one. max_tokens None
    goes on until the model stops or the context is full. stop: strings that end
    the answer; they are not part of it. schema: a JSON Schema as JSON text that
    the answer satisfies (engine.grammar checks it).
    """

    temperature: float = 1.0
    top_k: int = 64
    top_p: float = 0.95
    min_p: float = 0.0
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repeat_last_n: int = 64
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_last_n: int = 64
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    logit_bias: tuple[LogitBias, ...] = ()
    seed: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    schema: str | None = None

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    @property
    def reproducible(self) -> bool:
        """Is the same answer expected each time? Greedy decoding, or a seed that was given."""
        return self.greedy or self.seed is not None

    @property
    def penalizes(self) -> bool:
        """Does a token's logit depend on what was said before?"""
        penalties = self.repeat_penalty != 1 or self.presence_penalty or self.frequency_penalty
        return bool(penalties and self.repeat_last_n) or self.dry_multiplier > 0


_INT32 = 2**31 - 1
_MOST = 1000.0  # far beyond any use, and no logit overflows
_WINDOW = 2**20  # tokens; llama.cpp reserves memory for the whole window
LAST_SEED = 2**32 - 2  # 2**32 - 1 means "random" to llama.cpp


def check_sampling(sampling: Sampling) -> None:
    """Raise UsageError for a value outside its domain, naming the option."""
    limits: tuple[tuple[str, float | None, float, float | None], ...] = (
        ("--temp", sampling.temperature, 0.0, _MOST),
        ("--top-k", sampling.top_k, 0, _INT32),
        ("--top-p", sampling.top_p, 0.0, 1.0),
        ("--min-p", sampling.min_p, 0.0, 1.0),
        ("--repeat-penalty", sampling.repeat_penalty, 0.01, _MOST),
        ("--presence-penalty", sampling.presence_penalty, 0.0, _MOST),
        ("--frequency-penalty", sampling.frequency_penalty, 0.0, _MOST),
        ("--repeat-last-n", sampling.repeat_last_n, 0, _WINDOW),
        ("--dry-multiplier", sampling.dry_multiplier, 0.0, _MOST),
        ("--dry-base", sampling.dry_base, 1.0, _MOST),
        ("--dry-allowed-length", sampling.dry_allowed_length, 1, _WINDOW),
        ("--dry-last-n", sampling.dry_last_n, 1, _WINDOW),
        ("--xtc-probability", sampling.xtc_probability, 0.0, 1.0),
        ("--xtc-threshold", sampling.xtc_threshold, 0.01, 0.5),
        ("--seed", sampling.seed, 0, LAST_SEED),
        ("--max-tokens", sampling.max_tokens, 1, None),
    )
    for option, value, low, high in limits:
        if value is None or (low <= value and (high is None or value <= high)):
            continue
        bounds = f"{low} or more" if high is None else f"between {low} and {high}"
        raise UsageError(f"{option} must be {bounds}, not {value}")
    if "" in sampling.stop:
        raise UsageError("--stop must be a text, not an empty one")


_BIAS_EXAMPLE = """for example: --logit-bias 107=-100    or: --logit-bias 'sure=-5'"""
_BIAS = re.compile(
    r"""(?:(?P<id>\d+)|(?P<quoted>"(?:[^"\\]|\\.)*")|(?P<text>.+))=(?P<bias>[^=]+)""", re.S
)


def parse_logit_bias(said: str) -> LogitBias:
    """TOKEN_ID=BIAS or TEXT=BIAS; a text in double quotes (JSON) may be digits. UsageError."""
    match = _BIAS.fullmatch(said)
    try:
        if match is None:
            raise ValueError
        bias = float(match["bias"])
        token = int(match["id"]) if match["id"] else match["text"] or json.loads(match["quoted"])
    except ValueError:
        raise UsageError(
            f"--logit-bias takes TOKEN_ID=BIAS or TEXT=BIAS, not '{said}'", _BIAS_EXAMPLE
        ) from None
    if not -_MOST <= bias <= _MOST:
        raise UsageError(
            f"the bias of '{said}' must be between {-_MOST} and {_MOST}", _BIAS_EXAMPLE
        )
    if token == "":
        raise UsageError(f"--logit-bias '{said}' names no token", _BIAS_EXAMPLE)
    return token, bias


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a rendered prompt: the template's own text, or somebody's words."""

    text: str
    control: bool


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model will see: segments, their token ids, and how an answer is cut out.

    stop: strings of the format that end an answer. trim: white space around
    the answer belongs to the format. stable: number of tokens that other
    prompts will probably begin with too (a document before a question); 0: not
    known. continues: it ends within an answer, so white space may follow that
    is a part of it.
    """

    segments: tuple[Segment, ...]
    tokens: tuple[int, ...]
    stop: tuple[str, ...] = ()
    trim: bool = False
    stable: int = 0
    continues: bool = False

    @property
    def text(self) -> str:
        return "".join(segment.text for segment in self.segments)


@dataclass(frozen=True, slots=True)
class Piece:
    """Some text of the answer, whole characters only.

    thought: the model thinks aloud here; it is no part of the answer.
    """

    text: str
    thought: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """cached_tokens: of the prompt, not evaluated again.

    drafted_tokens, accepted_tokens: guessed and evaluated in a batch, and how
    many of those were right.
    """

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    drafted_tokens: int = 0
    accepted_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds and tokens per second. load_s is this engine's load, whenever it happened.

    ttft_s: from the request to the first token, loading not included.
    prompt_tps: evaluated (not cached) prompt tokens per second; 0 if there was none.
    """

    load_s: float
    ttft_s: float
    prompt_tps: float
    decode_tps: float
    total_s: float


@dataclass(frozen=True, slots=True)
class Done:
    """The last value of every generation: why it stopped, and what it cost.

    tokens: ids of the answer, the end-of-turn token not included.
    used: tokens in the context window after the answer; n_ctx: its size.
    seed: the one that was used, so that the answer can be had again.
    satisfied: does the answer satisfy its schema? None if it has none.
    """

    stop_reason: StopReason
    usage: Usage
    timings: Timings
    n_ctx: int
    used: int
    seed: int
    satisfied: bool | None = None
    tokens: tuple[int, ...] = field(default=(), repr=False)


class Generation(Protocol):
    """An answer on its way: an iterator of Pieces that ends with one Done."""

    def __iter__(self) -> Iterator[Piece | Done]: ...

    def cancel(self) -> None:
        """Stop soon, during prefill too; the iterator still ends with its Done.

        Safe to call from a signal handler, from any thread, and twice.
        """

    def prefill(self) -> float:
        """How much of the prompt the context window holds by now, 0.0 to 1.0."""


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """Facts of a loaded model that others show or decide by.

    threads: in use now; planned_threads: used where nobody else computes.
    warnings: what whoever uses the model must be told, once. thinks: it can be
    asked to think before it answers, or not to.
    """

    n_ctx: int
    n_ctx_train: int
    gpu_layers: int
    n_layers: int
    threads: int
    base_model: bool
    warnings: tuple[str, ...] = ()
    thinks: bool = False
    planned_threads: int = 0


class Engine(Protocol):
    """A model that may still be loading: every call but `progress` waits for it."""

    def info(self) -> EngineInfo: ...

    def progress(self) -> float:
        """How much of the weights is loaded, 0.0 to 1.0; 1.0 when ready or failed."""

    def render(self, messages: Sequence[Message], *, thinking: bool | None = None) -> Prompt:
        """The conversation as the model's chat template presents it, ready for an answer.

        The last message is the user's; or an answer that was cut, to be gone on with.
        thinking: whether the model thinks first; None: as its template has it.
        Without effect on a model that does not (EngineInfo.thinks).
        """

    def raw(self, text: str) -> Prompt:
        """A text as it is, for the model to continue."""

    def generate(self, prompt: Prompt, sampling: Sampling) -> Generation: ...

    def read_ahead(self, messages: Sequence[Message], *, thinking: bool | None = None) -> None:
        """Prepare for this conversation, whose last message is still being typed.

        Returns at once and changes no answer. The latest call counts.
        """

    def keep(self, n_past: int | None = None) -> None:
        """Keep what was evaluated for a later process: n_past tokens of the prompt, or all."""

    def close(self) -> None: ...
