"""The sampler: logits of one position to the next token, by llama.cpp's own samplers."""

from __future__ import annotations

import ctypes
import importlib
import secrets
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from gemma_cli.engine.library import C
from gemma_cli.engine.protocol import LAST_SEED, LogitBias, Sampling
from gemma_cli.errors import UsageError

if TYPE_CHECKING:
    from gemma_cli.engine.grammar import Grammar
    from gemma_cli.engine.tokens import Vocabulary

_DRY_BREAKERS = (b"\n", b":", b'"', b"*")  # llama.cpp's: a repeat does not reach over them
COLDEST = 1e-6  # the best token alone; logits divided by less may overflow, and none is best
_MANY = 8192  # candidates from which on a partial sort costs more than it saves


class _Late:
    """A module with NumPy in it (60 ms), imported in a thread beside what else there is to do."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._module: ModuleType | None = None
        self._thread: threading.Thread | None = None

    def begin(self) -> Any:
        """The module, or None while it is on its way."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._import, daemon=True)
            self._thread.start()
        return self._module

    def wait(self) -> Any:
        self.begin()
        if self._module is None:
            self._import()  # waits for the thread's import; raises what it raised
        return self._module

    def _import(self) -> None:
        self._module = importlib.import_module(self._name)


_selection_module = _Late("gemma_cli.engine.selection")


class Sampler:
    """How one answer's tokens are chosen. Call sample() once for each token, in order.

    Order: logit bias; top-k, because everything after it then works on a few
    dozen candidates and not on the whole vocabulary; penalties, DRY, top-p,
    min-p, XTC, temperature, draw. Without top-k the penalties, top-p and min-p
    look at the whole vocabulary, exactly, in NumPy. Greedy decoding knows bias
    and penalties alone; the first of equal logits wins.

    With a schema a token is drawn freely first. If the grammar refuses it, the
    same filters choose among all that it allows, with the next random number.
    """

    def __init__(self, sampling: Sampling, vocabulary: Vocabulary) -> None:
        """Raises UsageError for a logit bias that names no token of this vocabulary."""
        self.seed = secrets.randbelow(LAST_SEED + 1) if sampling.seed is None else sampling.seed
        self._sampling = sampling
        self._biases = _biases(sampling.logit_bias, vocabulary)
        self._n_vocab = vocabulary.size
        self._recent: deque[int] = deque(maxlen=_window(sampling))
        self._argmax = sampling.greedy and not sampling.penalizes and not self._biases
        self._grammar: Grammar | None = None
        if sampling.schema is not None:
            from gemma_cli.engine.grammar import Grammar

            self._grammar = Grammar(vocabulary, sampling.schema)
        self._selection: Any = None
        whole = sampling.top_k == 0 and not sampling.greedy
        self._in_numpy = whole or self._grammar is not None
        if self._in_numpy:
            _selection_module.begin()
        self._chains = _chains(
            sampling, vocabulary, self.seed, self._biases, whole=whole, choose=not self._in_numpy
        )

    def accept_prompt(self, tokens: Sequence[int]) -> None:
        """The prompt: what the penalties and DRY have seen, and whether it ends in a thought."""
        if self._grammar is not None:
            self._grammar.follow(tokens)
        window = self._recent.maxlen or 0
        for token in tokens[-window:] if window else ():
            self._accept(token)

    def sample(self, context: Any, index: int = -1) -> int:
        """The next token by the logits of one output of the last batch; -1: the last output."""
        if self._in_numpy:
            token = self._select(context, index)
            self._accept(token)
            return token
        module = _selection_module.begin() if self._argmax else None
        if module is not None:
            # The chain copies every logit into a record first: 0.22 ms against 0.03.
            return int(module.row(context, index, self._n_vocab).argmax())
        return int(C.llama_sampler_sample(self._chains.final, context, index))

    def forced(self) -> list[int]:
        """The tokens that must come next by the schema: drafts, for sample() to confirm."""
        return [] if self._grammar is None else self._grammar.forced()

    @property
    def complete(self) -> bool | None:
        """Does the answer so far satisfy its schema? None if it has none."""
        return None if self._grammar is None else self._grammar.complete

    def close(self) -> None:
        if self._grammar is not None:
            self._grammar.close()
        for chain in self._chains:
            if chain is not None:
                C.llama_sampler_free(chain)

    def _select(self, context: Any, index: int) -> int:
        grammar = self._grammar
        if grammar is not None and (end := grammar.end) is not None:
            return end
        module = _selection_module.wait()
        if self._selection is None:
            self._selection = module.Selection(
                self._sampling, self._biases, self._chains, self._n_vocab
            )
        logits = self._selection.prepare(module.row(context, index, self._n_vocab), self._recent)
        token: int = self._selection.choose(logits)
        if grammar is None or grammar.take(token):
            return token
        token = self._selection.choose(self._selection.allow(logits, grammar.mask()))
        assert grammar.take(token), "a mask allowed what its grammar refuses"
        return token

    def _accept(self, token: int) -> None:
        self._recent.append(token)
        for chain in (self._chains.penalties, self._chains.final):
            if chain is not None:
                C.llama_sampler_accept(chain, token)


class Chains(NamedTuple):
    """llama.cpp sampler chains. penalties, xtc: apart from the final one only without top-k."""

    final: Any
    penalties: Any = None
    xtc: Any = None


def _chains(
    sampling: Sampling,
    vocabulary: Vocabulary,
    seed: int,
    biases: dict[int, float],
    *,
    whole: bool,
    choose: bool,
) -> Chains:
    """whole: no top-k; NumPy truncates. choose: bias and top-k are the chain's own first stages."""
    penalties = _penalties(sampling, vocabulary)
    xtc = _xtc(sampling, seed)
    draw = C.llama_sampler_init_dist(seed)
    if whole:
        return Chains(_chain([draw]), _chain(penalties), _chain(xtc))
    stages = [*(_first(sampling, vocabulary.size, biases) if choose else ()), *penalties]
    if sampling.greedy:
        return Chains(_chain([*stages, C.llama_sampler_init_greedy()]))
    if sampling.top_p < 1:
        stages.append(C.llama_sampler_init_top_p(sampling.top_p, 1))
    if sampling.min_p > 0:
        stages.append(C.llama_sampler_init_min_p(sampling.min_p, 1))
    temperature = C.llama_sampler_init_temp(max(sampling.temperature, COLDEST))
    return Chains(_chain([*stages, *xtc, temperature, draw]))


def _chain(stages: Sequence[Any]) -> Any:
    """A chain that owns its stages; None for none."""
    if not stages:
        return None
    chain = C.llama_sampler_chain_init(C.llama_sampler_chain_default_params())
    for stage in stages:
        C.llama_sampler_chain_add(chain, stage)
    return chain


def _first(sampling: Sampling, n_vocab: int, biases: dict[int, float]) -> Iterator[Any]:
    if biases:
        array = (C.llama_logit_bias * len(biases))()
        for entry, (token, bias) in zip(array, biases.items(), strict=True):
            entry.token, entry.bias = token, bias
        yield C.llama_sampler_init_logit_bias(n_vocab, len(biases), array)
    count = candidates(sampling, n_vocab)
    if count < n_vocab and not (sampling.greedy and (count == 1 or count > _MANY)):
        yield C.llama_sampler_init_top_k(count)


def candidates(sampling: Sampling, n_vocab: int) -> int:
    """How many of the highest logits can hold the choice.

    Greedy decoding: penalties lower no more tokens than they look back on, so
    that one more holds the best of the others. A repeat_penalty below 1 raises
    tokens from anywhere.
    """
    if not sampling.greedy:
        return min(sampling.top_k, n_vocab)
    if sampling.repeat_penalty < 1:
        return n_vocab
    repeated = sampling.repeat_last_n if sampling.penalizes else 0
    return min(1 + repeated + (sampling.dry_last_n if sampling.dry_multiplier else 0), n_vocab)


def _penalties(sampling: Sampling, vocabulary: Vocabulary) -> list[Any]:
    stages = []
    penalties = (sampling.repeat_penalty, sampling.frequency_penalty, sampling.presence_penalty)
    if penalties != (1, 0, 0) and sampling.repeat_last_n:
        stages.append(
            C.llama_sampler_init_penalties(vocabulary.size, sampling.repeat_last_n, *penalties)
        )
    if sampling.dry_multiplier:
        breakers = (ctypes.c_char_p * len(_DRY_BREAKERS))(*_DRY_BREAKERS)
        stages.append(
            C.llama_sampler_init_dry(
                vocabulary.pointer,
                sampling.dry_multiplier,
                sampling.dry_base,
                sampling.dry_allowed_length,
                sampling.dry_last_n,
                breakers,
                len(breakers),
            )
        )
    return stages


def _xtc(sampling: Sampling, seed: int) -> list[Any]:
    if sampling.greedy or sampling.xtc_probability == 0:
        return []
    # Of another seed than the draw: the same numbers would tie the two together.
    return [
        C.llama_sampler_init_xtc(
            sampling.xtc_probability, sampling.xtc_threshold, 1, (seed + 1) % (LAST_SEED + 1)
        )
    ]


def _window(sampling: Sampling) -> int:
    """How many tokens back anything looks."""
    if not sampling.penalizes:
        return 0
    return max(sampling.repeat_last_n, sampling.dry_last_n if sampling.dry_multiplier else 0)


def _biases(biases: Iterable[LogitBias], vocabulary: Vocabulary) -> dict[int, float]:
    """Token id to bias; UsageError for what is no token of this vocabulary. The last one counts."""
    found = {}
    for token, bias in biases:
        if isinstance(token, str):
            ids = vocabulary.plain(token)
            if len(ids) != 1:
                raise UsageError(
                    f"--logit-bias: {token!r} is {len(ids)} tokens of this model, not one",
                    "name one token, by text or by number",
                )
            token = ids[0]
        if not 0 <= token < vocabulary.size:
            raise UsageError(
                f"--logit-bias: this model has no token {token}: they go from 0 to "
                f"{vocabulary.size - 1}"
            )
        found[token] = bias
    return found
