"""The engine's pure parts: text streams, prefix reuse, sampling limits, memory formulas."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemma_cli.engine.answertext import TextStream
from gemma_cli.engine.cache import common_prefix, reusable
from gemma_cli.engine.protocol import Sampling, check_sampling
from gemma_cli.errors import UsageError


def push_all(stream: TextStream, raw: bytes, size: int) -> str:
    parts = []
    for start in range(0, len(raw), size):
        parts.append(stream.push(raw[start : start + size]))
        if stream.stopped:
            return "".join(parts)
    return "".join([*parts, stream.finish()])


@given(st.text(), st.integers(1, 5))
def test_any_split_of_utf8_gives_the_text_back(text: str, size: int) -> None:
    text = text.encode("utf-8", "ignore").decode()
    assert push_all(TextStream(), text.encode(), size) == text


def test_a_split_emoji_is_never_a_replacement_character() -> None:
    stream = TextStream()
    raw = "👩‍👩‍👧".encode()
    seen = [stream.push(raw[i : i + 1]) for i in range(len(raw))]
    assert "\ufffd" not in "".join(seen)
    assert "".join(seen) == "👩‍👩‍👧"


def test_bytes_of_a_character_that_never_ends_are_dropped() -> None:
    stream = TextStream()
    assert stream.push("né".encode()[:-1]) + stream.finish() == "n"


@given(st.text(alphabet="ab\n", max_size=30), st.integers(1, 4))
def test_stop_strings_work_across_any_border(text: str, size: int) -> None:
    stream = TextStream(("ab\n",))
    result = push_all(stream, text.encode(), size)
    assert result == text.split("ab\n")[0]
    assert stream.stopped == ("ab\n" in text)


@given(st.text(alphabet="ab \n", max_size=30), st.integers(1, 4))
def test_trim_leaves_out_white_space_at_both_ends_only(text: str, size: int) -> None:
    assert push_all(TextStream(trim=True), text.encode(), size) == text.strip()


@given(
    st.text(alphabet="ab \n", max_size=30),
    st.sampled_from(("\nab", "a", "b\n ", " \n", "\n")),
    st.integers(1, 4),
)
def test_trim_and_a_stop_string_together(text: str, stop: str, size: int) -> None:
    """It may begin in the white space before the answer; what lies within that ends nothing."""
    stream = TextStream((stop,), trim=True)
    result = push_all(stream, text.encode(), size)
    space = len(text) - len(text.lstrip())
    at = text.find(stop, max(0, space - len(stop) + 1))
    assert stream.stopped == (at >= 0)
    assert result == (text[:at] if at >= 0 else text).strip()


def test_a_base_model_that_answers_nothing_is_not_heard_as_the_next_speaker() -> None:
    stream = TextStream(("\nUser:", "\nAssistant:"), trim=True)
    assert push_all(stream, b"\n\nUser: What next?\n", 1) == ""
    assert stream.stopped


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)))
def test_common_prefix(a: list[int], b: list[int]) -> None:
    n = common_prefix(a, b)
    assert a[:n] == b[:n]
    assert n == min(len(a), len(b)) or a[n] != b[n]


def test_the_last_prompt_token_is_always_evaluated() -> None:
    assert reusable([1, 2, 3], [1, 2, 3], pos_min=0, sliding_window=0).n_past == 2


def test_going_on_needs_no_window_behind_it() -> None:
    cached = list(range(2000))
    assert reusable(cached, [*cached, 7], pos_min=1400, sliding_window=512).n_past == 2000


@pytest.mark.parametrize(("pos_min", "kept"), [(489, 1000), (490, 0)])
def test_going_back_needs_the_whole_window_before_the_new_end(pos_min: int, kept: int) -> None:
    cached = list(range(1200))
    prompt = [*cached[:1000], 9999, 9999]
    assert reusable(cached, prompt, pos_min=pos_min, sliding_window=512).n_past == kept


@pytest.mark.parametrize(
    ("sampling", "option"),
    [
        (Sampling(temperature=-1), "--temp"),
        (Sampling(top_k=-1), "--top-k"),
        (Sampling(top_p=1.5), "--top-p"),
        (Sampling(min_p=-0.1), "--min-p"),
        (Sampling(repeat_penalty=0), "--repeat-penalty"),
        (Sampling(seed=2**32 - 1), "--seed"),
        (Sampling(max_tokens=0), "--max-tokens"),
        (Sampling(temperature=float("nan")), "--temp"),
    ],
)
def test_a_value_outside_its_domain_is_named(sampling: Sampling, option: str) -> None:
    with pytest.raises(UsageError, match=option):
        check_sampling(sampling)


def test_the_borders_are_inside() -> None:
    check_sampling(Sampling(temperature=0, top_k=0, top_p=1, min_p=0, seed=2**32 - 2, max_tokens=1))
