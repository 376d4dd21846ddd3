from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemma_cli.chat.conversation import Turn
from gemma_cli.chat.window import answer_room, leaving, notice
from gemma_cli.errors import ExitCode, PromptTooLongError


@given(
    st.lists(st.integers(1, 500), min_size=1, max_size=40),
    st.integers(0, 300),
    st.integers(8, 9000),
    st.integers(0, 45),
)
def test_the_fewest_of_the_oldest_leave(
    sizes: list[int], system: int, n_ctx: int, before: int
) -> None:
    room = answer_room(n_ctx, None)
    asked: list[int] = []

    def measure(skip: int) -> int:
        asked.append(skip)
        return system + sum(sizes[skip:])

    if measure(len(sizes) - 1) >= n_ctx:
        with pytest.raises(PromptTooLongError):
            leaving(len(sizes), measure, n_ctx, room)
        return
    asked.clear()
    skip = leaving(len(sizes), measure, n_ctx, room)
    fits = [n for n in range(len(sizes)) if system + sum(sizes[n:]) <= n_ctx - room]
    assert skip == (fits[0] if fits else len(sizes) - 1)
    assert len(asked) <= 9  # a render costs: no linear search
    assert leaving(len(sizes), measure, n_ctx, room, before) == skip
    asked.clear()
    assert leaving(len(sizes), measure, n_ctx, room, skip) == skip
    assert min(asked) >= skip - 1  # what left for the turn before is not measured again


def test_a_message_larger_than_the_window() -> None:
    with pytest.raises(PromptTooLongError) as failure:
        leaving(1, lambda _skip: 5000, 4096, 1024)
    assert "5,000" in failure.value.message
    assert "4,096" in failure.value.message
    assert failure.value.exit_code == ExitCode.CONTEXT


def test_room_for_the_answer() -> None:
    assert answer_room(32768, None) == 1024
    assert answer_room(1024, None) == 256
    assert answer_room(32768, 100) == 100
    assert answer_room(4096, 100_000) == 1024


def test_what_is_told() -> None:
    def turn(text: str) -> Turn:
        return Turn(1, None, "user", text)

    assert 'turn 1 left it ("first\'s words")' in notice([(1, turn("first's\n words"))])
    several = notice([(2, turn("a" * 90)), (3, turn("b"))])
    assert 'turns 2 to 3 left it ("aaa' in several
    assert '… "b")' in several
