"""Which tokens of a whole vocabulary can be drawn at all: exact, in NumPy, well under 1 ms.

llama.cpp's samplers sort and copy every candidate they are given: 15 ms for a
nucleus of 262,144. What is chosen here is what they would leave, and they are
given that alone. Importing this module imports NumPy (60 ms).
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from gemma_cli.engine.library import C
from gemma_cli.engine.protocol import Sampling
from gemma_cli.engine.sampling import COLDEST, Chains, candidates

Logits = npt.NDArray[np.float32]
Ids = npt.NDArray[np.intp]

_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
_ROW = 512

# The eight limits that each byte of a bit mask stands for.
_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
_NEVER = np.float32(-np.inf)
_LIMITS = np.where(_BITS, np.float32(np.inf), _NEVER)


def row(context: Any, index: int, n_vocab: int) -> Logits:
    """The logits of one output of the last batch: llama.cpp's own memory, valid until the next."""
    address: int | None = _logits_address(context, index)
    assert address, f"output {index} of the last batch has no logits"
    return _floats(address, n_vocab)


# As C.llama_get_logits_ith, but for a number: making it of a pointer object
# takes as long as the call, once a token.
_logits_address = C.__dict__["_lib"]["llama_get_logits_ith"]
_logits_address.argtypes = C.llama_get_logits_ith.argtypes
_logits_address.restype = ctypes.c_void_p


@functools.lru_cache(maxsize=64)
def _floats(address: int, count: int) -> Logits:
    """A view of memory; llama.cpp's rows stay where they are, so most calls make none."""
    return np.ctypeslib.as_array((ctypes.c_float * count).from_address(address))


def forbid(logits: Logits, mask: bytes) -> None:
    """Take away, in place, every token whose bit in the mask is 0."""
    limits = np.take(_LIMITS, np.frombuffer(mask, dtype=np.uint8), axis=0).reshape(-1)
    known = min(len(limits), len(logits))
    np.minimum(logits[:known], limits[:known], out=logits[:known])
    logits[known:] = _NEVER


def top_k(logits: Logits, k: int) -> Ids:
    """The k tokens of the highest logits, best first; of equal ones the first.

    Fewer if fewer are possible. The k-th highest of the maxima of 512 columns
    is at most the k-th highest logit, which leaves few to sort.
    """
    if k == 1:
        return np.array([logits.argmax()])
    k = min(k, len(logits))
    whole = len(logits) // _ROW * _ROW
    if k <= _ROW <= whole:
        maxima = logits[:whole].reshape(-1, _ROW).max(axis=0)
        floor = np.partition(maxima, -k)[-k]
    else:
        floor = np.partition(logits, -k)[-k]
    ids = np.flatnonzero(logits >= floor if floor > _NEVER else logits > _NEVER)
    return _descending(ids, logits)[:k]


def truncate(logits: Logits, top_p: float, min_p: float, scratch: Logits | None = None) -> None:
    """Top-p and then min-p over a whole vocabulary, in place: what they drop becomes -inf.

    Tokens of equal logits stay or leave together. scratch: memory of the same
    size; a fresh megabyte costs more than the sums in it.
    """
    weights = _weights(logits, scratch)
    least = np.float32(min_p)
    if top_p < 1:
        least = max(least, _nucleus_edge(weights, top_p * float(weights.sum(dtype=np.float64))))
    np.copyto(logits, _NEVER, where=weights < least)


def _weights(logits: Logits, scratch: Logits | None) -> Logits:
    """Softmax before it is divided by its sum: 1 for the best."""
    weights: Logits = np.subtract(logits, logits.max(), out=scratch)
    return np.exp(weights, out=weights)


def _nucleus_edge(weights: Logits, wanted: float) -> np.float32:
    """The smallest weight among the heaviest tokens that sum to what is wanted."""
    for cut in (1e-3, 1e-5, 0.0):  # the flatter the distribution, the more are sorted
        heavy = weights[weights >= np.float32(cut)] if cut else weights
        if heavy.sum(dtype=np.float64) >= wanted:
            break
    ranked: Logits = np.sort(heavy)[::-1]
    # Cumulative sums of all would take three times as long as sorting.
    sums = np.cumsum(np.add.reduceat(ranked, np.arange(0, len(ranked), _ROW)), dtype=np.float64)
    full = int(np.searchsorted(sums, wanted))
    last = ranked[full * _ROW : (full + 1) * _ROW]
    within = wanted - (sums[full - 1] if full else 0.0)
    reached = int(np.searchsorted(np.cumsum(last, dtype=np.float64), within))
    return np.float32(ranked[min(full * _ROW + reached, len(ranked) - 1)])


def _descending(ids: Ids, logits: Logits) -> Ids:
    return ids[np.argsort(-logits[ids], kind="stable")]


def apply(chain: Any, ids: Ids, logits: Logits, *, best_first: bool = False) -> tuple[Any, Any]:
    """Run a llama.cpp chain over candidates; (its array, the memory behind it).

    ids: what the candidates are called; logits: theirs, one for each. best_first:
    that is their order; said of another one, a softmax would overflow.
    """
    memory = np.zeros(len(ids), _CANDIDATE)
    memory["id"], memory["logit"] = ids, logits
    array = C.llama_token_data_array(
        data=memory.ctypes.data_as(ctypes.POINTER(C.llama_token_data)),
        size=len(ids),
        selected=-1,
        sorted=best_first,
    )
    C.llama_sampler_apply(chain, ctypes.byref(array))
    return array, memory


def draw(chain: Any, ids: Ids, logits: Logits, *, best_first: bool = False) -> int:
    """The candidate that a chain selects."""
    array, _memory = apply(chain, ids, logits, best_first=best_first)
    return int(array.data[array.selected].id)


def draw_from_all(
    chain: Any, logits: Logits, temperature: float, scratch: Logits | None = None
) -> int:
    """One token of the whole distribution, nothing truncated: first a row of 512, then one in it.

    chain: draws by softmax alone; the temperature is applied here, to the
    logits in place. scratch: as for truncate.
    """
    logits -= logits.max()
    logits /= np.float32(max(temperature, COLDEST))
    padding = -len(logits) % _ROW
    if padding:
        logits, scratch = np.concatenate((logits, np.full(padding, _NEVER))), None
    rows = logits.reshape(-1, _ROW)
    sums = np.exp(logits, out=scratch).reshape(-1, _ROW).sum(axis=1)
    possible = np.flatnonzero(sums)
    chosen = draw(chain, possible, np.log(sums[possible]))
    columns = np.flatnonzero(rows[chosen] > _NEVER)
    return chosen * _ROW + draw(chain, columns, rows[chosen][columns])


def exclude_top_choices(
    chain: Any, logits: Logits, threshold: float, scratch: Logits | None = None
) -> None:
    """XTC over a whole vocabulary, in place: the likeliest tokens that it excludes become -inf.

    It looks at no token below the threshold, so what is there stands for itself
    as a few equal ones below it. scratch: as for truncate.
    """
    weights = _weights(logits, scratch)
    total = float(weights.sum(dtype=np.float64))
    ids = _descending(np.flatnonzero(weights >= threshold * total), logits)
    rest = max(total - float(weights[ids].sum(dtype=np.float64)), 0.0)
    count = int(rest / (threshold * total)) + 2  # well below it, rounding or not
    shares = np.append(weights[ids], np.full(count, max(rest / count, 1e-30)))
    with_rest = np.arange(len(shares))
    array, _memory = apply(chain, with_rest, np.log(shares / total), best_first=True)
    logits[ids[: len(shares) - array.size]] = _NEVER


class Selection:
    """Draws tokens from logits in memory, by one answer's options and chains."""

    def __init__(
        self, sampling: Sampling, biases: dict[int, float], chains: Chains, n_vocab: int
    ) -> None:
        self._sampling, self._chains = sampling, chains
        self._prepared, self._left, self._scratch = np.empty((3, n_vocab), dtype=np.float32)
        self._whole = sampling.top_k == 0 and not sampling.greedy
        self._biased = np.fromiter(biases.keys(), np.intp)
        self._biases = np.fromiter(biases.values(), np.float32)

    def prepare(self, row: Logits, recent: Iterable[int]) -> Logits:
        """With biases and, without top-k, penalties. recent: what those look back on.

        The row itself if there are none; else a copy, valid until the next call.
        """
        if self._chains.penalties is None and not len(self._biased):
            return row
        logits = self._prepared
        np.copyto(logits, row)
        logits[self._biased] += self._biases
        if self._chains.penalties is not None:
            ids = np.unique(np.fromiter(recent, np.intp))
            if len(ids):
                _, memory = apply(self._chains.penalties, ids, logits[ids])
                logits[ids] = memory["logit"]
        return logits

    def allow(self, logits: Logits, mask: bytes) -> Logits:
        """What prepare() gave with the tokens of the mask alone; valid until the next call."""
        if logits is not self._prepared:
            np.copyto(self._prepared, logits)
        forbid(self._prepared, mask)
        return self._prepared

    def choose(self, logits: Logits) -> int:
        """Draw one; the logits, which prepare() gave, stay as they are."""
        if not self._whole:
            ids = top_k(logits, candidates(self._sampling, len(logits)))
            return draw(self._chains.final, ids, logits[ids], best_first=True)
        left, scratch = self._left, self._scratch
        np.copyto(left, logits)
        if self._sampling.top_p < 1 or self._sampling.min_p > 0:
            truncate(left, self._sampling.top_p, self._sampling.min_p, scratch)
        if self._chains.xtc is not None:
            exclude_top_choices(self._chains.xtc, left, self._sampling.xtc_threshold, scratch)
        return draw_from_all(self._chains.final, left, self._sampling.temperature, scratch)
