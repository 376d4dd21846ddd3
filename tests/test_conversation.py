from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemma_cli.chat.conversation import SUMMARY, Attachment, Conversation, Turn
from gemma_cli.engine.protocol import Message


def test_a_branch_keeps_what_it_left() -> None:
    talk = Conversation("be brief")
    question = talk.add("user", "hi")
    first = talk.add("assistant", "hello")
    talk.go_to(question.id)
    second = talk.add("assistant", "good day")
    assert [turn.id for turn in talk.children(question.id)] == [first.id, second.id]
    assert [turn.text for turn in talk.path()] == ["hi", "good day"]
    talk.go_to(first.id)
    assert talk.messages() == [
        Message("system", "be brief"),
        Message("user", "hi"),
        Message("assistant", "hello"),
    ]


def test_a_question_without_an_answer_is_not_shown_to_the_model() -> None:
    talk = Conversation()
    talk.add("user", "killed before the answer")
    talk.add("user", "stopped at once")
    talk.add("assistant", "", "cancelled")
    talk.add("user", "now")
    assert talk.messages() == [Message("user", "now")]


def test_changing_a_turn_keeps_its_place() -> None:
    talk = Conversation()
    talk.add("user", "hi")
    answer = talk.add("assistant", "", "streaming")
    changed = talk.change(answer.id, "hello", "complete")
    assert talk[answer.id] is changed
    assert (changed.parent, changed.created) == (answer.parent, answer.created)


def test_a_turn_needs_its_parent() -> None:
    with pytest.raises(ValueError, match="follows turn 7"):
        Conversation().insert(Turn(8, 7, "user", "x"))
    with pytest.raises(KeyError):
        Conversation().go_to(1)


@given(
    st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=40),
    st.floats(0, 4e9),
)
def test_any_tree(steps: list[tuple[int, bool]], now: float) -> None:
    """Against a plain model: a list of (parent, id). The clock may stand still."""
    talk = Conversation(clock=lambda: now)
    plain: list[tuple[int | None, int]] = []
    for jump, user in steps:
        if plain and jump < len(plain):
            talk.go_to(plain[jump][1])
        parent = talk.leaf
        turn = talk.add("user" if user else "assistant", f"turn {len(plain)}")
        plain.append((parent, turn.id))
    assert [(turn.parent, turn.id) for turn in talk] == plain
    assert [turn.id for turn in talk] == sorted({turn.id for turn in talk})
    assert all(0 < turn.id < 2**63 for turn in talk)
    path = talk.path()
    assert [turn.parent for turn in path] == [None, *(turn.id for turn in path)][: len(path)]
    roles = [message.role for message in talk.messages()]
    assert not any(a == b for a, b in pairwise(roles))


def test_a_summary_stands_for_what_came_before() -> None:
    talk = Conversation("be brief")
    talk.pinned = (Attachment("a.txt", "pinned"),)
    talk.add("user", "one")
    first = talk.add("assistant", "1")
    talk.add("user", "two", attachments=(Attachment("b.txt", "attached"),))
    second = talk.add("assistant", "2")
    leaf = talk.leaf
    talk.summarise(first.id, "They counted.")
    assert talk.leaf == leaf
    assert [turn.text for turn in talk.path()] == ["one", "1", "two", "2"]
    assert [turn.text for turn in talk.children(first.id)] == ["two"]
    opening = f"be brief\n\npinned\n\n{SUMMARY}\nThey counted."
    assert talk.messages() == [
        Message("system", opening),
        Message("user", "attached\n\ntwo"),
        Message("assistant", "2"),
    ]
    talk.summarise(second.id, "They counted to two.")
    assert talk.messages()[1:] == []
    assert talk.upcoming("three")[1:] == [Message("user", "three")]
    talk.go_to(first.id)
    assert talk.summary() is not None
    assert talk.opening_parts()[-1][0] == "summary of turn 1"
    talk.summarise(first.id, "")
    assert talk.summary() is None
    assert talk.messages()[0].text == "be brief\n\npinned"
    talk.go_to(None)
    assert talk.messages() == [Message("system", "be brief\n\npinned")]
