"""Finding messages: what is typed is never syntax, and what is found is marked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gemma_cli.chat.conversation import Conversation
from gemma_cli.chat.history import History
from gemma_cli.chat.search import match_expression


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    with closing(History(tmp_path / "history.db")) as one:
        yield one


def keep(history: History, *texts: str, title: str = "") -> int:
    conversation = Conversation()
    conversation.title = title
    for number, text in enumerate(texts):
        conversation.add("assistant" if number % 2 else "user", text)
    return history.add(conversation, "m")


@pytest.mark.parametrize(
    ("typed", "expression"),
    [
        ("", ""),
        ("- * \" ' ()", ""),
        ("café", '"café"*'),
        ("two words", '"two" "words"*'),
        ('"two words"', '"two words"'),
        ('before "two words" after', '"before" "two words" "after"*'),
        ('"not closed', '"not closed"*'),
        ('said"so', '"said" "so"*'),
        ("a AND NOT b", '"a" "AND" "NOT" "b"*'),
        ("text:word ^x", '"text:word" "^x"*'),
        ("nul\0byte half\udcff", '"nul byte" "half "*'),
    ],
)
def test_nothing_but_quotes_is_syntax(typed: str, expression: str) -> None:
    assert match_expression(typed) == expression


def test_words_phrases_and_beginnings(history: History) -> None:
    keep(history, "The Naïve Baker bakes bread", "Crème brûlée is no bread")
    keep(history, "bread the baker")
    found = [
        ("naive BAKER", 1),
        ('"baker bakes"', 1),
        ('"bakes baker"', 0),
        ("bread bak", 2),
        ('bread "bak"', 0),
        ("bak bread", 0),
        ("brulee", 1),
        ("bread -baker", 2),
        ("bread* AND", 0),
    ]
    assert [(query, len(history.search(query))) for query, _ in found] == found


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.text(alphabet=st.characters() | st.sampled_from('"*-+^:(){}\0 ANDORT'), max_size=30))
def test_no_text_is_an_error(history: History, typed: str) -> None:
    history.search(typed)
    history.conversations(5, matching=typed)


def test_every_typed_word_that_is_kept_is_found_and_marked(history: History) -> None:
    text = "Grüße: \x01\x02 naïve x² 日本 [draft] \x1b[31mred"
    keep(history, text)
    marked = {"gruße": "Grüße", "NAIVE": "naïve", "x²": "x²", "日": "日本", "[draft]": "draft"}
    for typed, word in {**marked, "31m": "31mred"}.items():
        (hit,) = history.search(typed)
        assert hit.excerpt == text
        assert [hit.excerpt[start:end] for start, end in hit.matches] == [word]


def test_of_words_in_every_message_the_newest_are_judged(history: History) -> None:
    conversation = Conversation()
    for number in range(600):
        conversation.add("user", f"the question number {number}" + " of many words" * 3)
    conversation.add("user", "the")
    history.add(conversation, "m")
    hits = history.search("the", limit=5)
    assert len(hits) == 5
    assert hits[0].excerpt == "the"  # the shortest fits best
    assert all(int(hit.excerpt.split()[3]) > 350 for hit in hits[1:])


def test_a_title_that_somebody_set_is_found(history: History) -> None:
    named = keep(history, "nothing", "really", title="Über Steuern")
    made = keep(history, "steuern and more")
    found = {(hit.conversation, hit.role): hit for hit in history.search("uber steu")}
    assert list(found) == [(named, "title")]
    hit = found[named, "title"]
    assert [hit.excerpt[start:end] for start, end in hit.matches] == ["Über", "Steuern"]
    hits = history.search("steuern")
    assert sorted((hit.conversation, hit.role) for hit in hits) == [
        (named, "title"),
        (made, "user"),
    ]
    for number in range(250):
        keep(history, f"steuern {number}")
    assert named in [hit.conversation for hit in history.search("steuern", limit=400)]


def test_chats_by_their_words_and_titles(history: History) -> None:
    first = keep(history, "apples and pears", "yes")
    second = keep(history, "nothing", "really", title="Über Äpfel, apples too")
    keep(history, "other", "thing")
    assert [chat.id for chat in history.conversations(matching="apple")] == [second, first]
    assert [chat.id for chat in history.conversations(1, matching="apple")] == [second]
    assert [chat.id for chat in history.conversations(matching="uber apf")] == [second]
    assert history.conversations(matching="-") == []
    history.remove(second)
    assert history.conversations(matching="uber") == []
