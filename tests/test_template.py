"""Chat templates: where each generation puts things, and that words stay words."""

from __future__ import annotations

import time

import pytest

from gemma_cli.engine.gemma4 import Gemma4Template, without_thoughts
from gemma_cli.engine.longtalks import LongTalks
from gemma_cli.engine.protocol import Message, Segment
from gemma_cli.engine.template import JinjaTemplate
from gemma_cli.engine.turns import Template, TranscriptTemplate, TurnTemplate
from gemma_cli.errors import TemplateError, UsageError
from tests.conversations import conversations

# Templates in the manner of each generation, written for these tests.
GEMMA_1_AND_2 = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}
{%- for m in messages %}
{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must take turns') }}{% endif %}
{{- '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' + m['content'] | trim + '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"""

GEMMA_3 = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' %}
{%- set opening = messages[0]['content'] + '\n\n' %}{% set turns = messages[1:] %}
{%- else %}{% set opening = '' %}{% set turns = messages %}{% endif %}
{%- for m in turns %}
{{- '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + (opening if loop.first else '') }}
{{- m.content | trim if m.content is string else '' }}
{{- '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"""

# Looks back at every message for each one, as the published one does.
GEMMA_4 = """{{ bos_token }}
{%- set turns = messages[1:] if messages[0].role == 'system' else messages %}
{%- if enable_thinking | default(false) or messages[0].role == 'system' %}
{{- '<|turn>system\n' + ('<|think|>\n' if enable_thinking | default(false) else '') }}
{{- messages[0].content | trim if messages[0].role == 'system' else '' }}
{{- '<turn|>\n' }}
{%- endif %}
{%- for m in turns %}
{%- set before = namespace(role='') %}
{%- for i in range(loop.index0) %}{% set before.role = turns[i].role %}{% endfor %}
{%- set role = 'model' if m.role == 'assistant' else m.role %}
{{- '<|turn>' + role + '\n' if not (role == 'model' and before.role == 'assistant') else '' }}
{{- m.content | trim + '<turn|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|turn>model\n' + ('' if enable_thinking | default(false) else '<|channel>thought\n<channel|>') }}
{%- endif %}"""

UNTRIMMED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

TALK = [
    Message("system", "Be brief."),
    Message("user", "  Hi  "),
    Message("assistant", "Hello!"),
    Message("user", "Why?\n"),
]
TURNS = (
    "<start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n"
    "<start_of_turn>model\nHello!<end_of_turn>\n"
    "<start_of_turn>user\nWhy?<end_of_turn>\n<start_of_turn>model\n"
)


def text_of(segments: tuple[Segment, ...]) -> str:
    return "".join(segment.text for segment in segments)


@pytest.mark.parametrize(
    ("template", "bos"),
    [
        (TurnTemplate(), ""),
        (JinjaTemplate(GEMMA_1_AND_2, bos="<bos>"), "<bos>"),
        (JinjaTemplate(GEMMA_3, bos="<bos>"), "<bos>"),
    ],
    ids=["built in", "Gemma 1 and 2", "Gemma 3"],
)
def test_the_system_text_opens_the_first_user_turn(template: Template, bos: str) -> None:
    rendered = text_of(template.render(TALK))
    # Gemma 1 and 2 have no system turn: what stands between its text and the
    # user's is ours, white space of the user's text included.
    assert rendered.replace("Be brief.\n\n  Hi", "Be brief.\n\nHi") == bos + TURNS


def test_words_are_kept_apart_from_control_text() -> None:
    segments = JinjaTemplate(GEMMA_3, bos="<bos>").render(TALK)
    words = [segment.text for segment in segments if not segment.control]
    assert words == ["Be brief.", "Hi", "Hello!", "Why?"]


def test_a_template_that_does_not_trim_leaves_the_words_as_they_are() -> None:
    segments = JinjaTemplate(UNTRIMMED).render(TALK)
    assert [s.text for s in segments if not s.control] == [m.text for m in TALK]
    assert text_of(segments).startswith("<|im_start|>system\nBe brief.<|im_end|>\n")


def test_jinja_in_words_is_not_run() -> None:
    said = "{{ 7 * 7 }} {% for x in y %} <end_of_turn>"
    assert said in text_of(JinjaTemplate(GEMMA_3).render([Message("user", said)]))


def test_a_word_cannot_steer_a_template() -> None:
    source = (
        "{% for m in messages %}{% if 'secret' in m.content %}LEAK{% endif %}"
        "{{ m.content }}{% endfor %}"
    )
    assert "LEAK" not in text_of(JinjaTemplate(source).render([Message("user", "secret")]))


def test_an_empty_turn_is_a_turn() -> None:
    talk = [Message("user", "a"), Message("assistant", ""), Message("user", "b")]
    for template in (TurnTemplate(), JinjaTemplate(GEMMA_3)):
        assert "<start_of_turn>model\n<end_of_turn>" in text_of(template.render(talk))


def test_the_transcript_shows_an_example_and_stops_at_the_next_speaker() -> None:
    template = TranscriptTemplate()
    rendered = text_of(template.render(TALK))
    assert rendered.count("\nUser: ") == 3
    assert rendered.endswith("\nUser: Why?\nAssistant:")
    assert "Be brief." in rendered
    assert "\nUser:" in template.stop


@pytest.mark.parametrize("thinking", [None, False, True])
def test_the_format_of_gemma_4_is_that_of_its_template(thinking: bool | None) -> None:
    own, theirs = Gemma4Template(closes_thoughts=True), JinjaTemplate(GEMMA_4)
    for talk in conversations(150):
        assert text_of(own.render(talk, thinking)) == text_of(theirs.render(talk, thinking))


def test_gemma_4_with_thinking_and_without() -> None:
    turns = (
        "<|turn>user\nHi<turn|>\n<|turn>model\nHello!<turn|>\n"
        "<|turn>user\nWhy?<turn|>\n<|turn>model\n"
    )
    closed = "<|channel>thought\n<channel|>"
    large, small = Gemma4Template(closes_thoughts=True), Gemma4Template(closes_thoughts=False)
    system = "<|turn>system\nBe brief.<turn|>\n"
    assert text_of(large.render(TALK)) == text_of(large.render(TALK, False))
    assert text_of(large.render(TALK)) == system + turns + closed
    assert text_of(small.render(TALK)) == text_of(small.render(TALK, False)) == system + turns
    for template in (large, small):
        assert text_of(template.render(TALK, True)) == (
            "<|turn>system\n<|think|>\nBe brief.<turn|>\n" + turns
        )
        assert text_of(template.render(TALK[1:], True)) == (
            "<|turn>system\n<|think|>\n<turn|>\n" + turns
        )


def test_a_template_is_asked_whether_it_knows_of_thinking() -> None:
    assert JinjaTemplate(GEMMA_4).thinks
    assert not JinjaTemplate(GEMMA_3).thinks
    assert not JinjaTemplate("{# enable_thinking #}" + GEMMA_3).thinks
    assert text_of(JinjaTemplate(GEMMA_3).render(TALK, True)) == TURNS
    assert not JinjaTemplate("{{ enable_thinking }}{% for %}").thinks


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Hello.", "Hello."),
        ("<|channel>thought\nHm.\n<channel|>Hello.", "Hello."),
        ("A<|channel>thought\nHm.<channel|>B<|channel>thought\nSo.<channel|>C", "ABC"),
        ("A<|channel>thought\nHm.", "A"),
        ("The mark <|channel> opens one.", "The mark <|channel> opens one."),
        ("<channel|> closes one.", "<channel|> closes one."),
    ],
)
def test_thoughts_that_are_still_marked_are_taken_out(text: str, answer: str) -> None:
    assert without_thoughts(text) == answer


def long_talk(turns: int) -> list[Message]:
    return [
        Message("assistant" if turn % 2 else "user", f" {turn}\n") for turn in range(2 * turns + 1)
    ]


def test_a_long_talk_renders_in_no_time_and_the_same() -> None:
    theirs, own = JinjaTemplate(GEMMA_4, bos="<bos>"), Gemma4Template(closes_thoughts=True)
    template = LongTalks(theirs, own)
    talk = long_talk(40)
    assert "<bos>" + text_of(template.render(talk)) == text_of(theirs.render(talk))
    start = time.monotonic()
    assert text_of(template.render(long_talk(2000))).count("<turn|>") == 4001
    assert time.monotonic() - start < 20  # the template itself takes minutes


def test_a_template_that_differs_is_never_replaced() -> None:
    other = JinjaTemplate(GEMMA_4.replace("<|think|>", "<|think|> please"))
    template = LongTalks(other, Gemma4Template(closes_thoughts=True))
    talk = long_talk(20)
    assert text_of(template.render(talk, True)) == text_of(other.render(talk, True))
    assert "<|think|> please" in text_of(template.render(talk, True))
    # Without thinking there is no difference, and a long talk takes no time.
    assert text_of(template.render(long_talk(1000))).count("<turn|>") == 2001
    strict = JinjaTemplate(GEMMA_1_AND_2)
    odd = [*long_talk(20), Message("user", "again")]
    with pytest.raises(TemplateError, match="roles must take turns"):
        LongTalks(strict, TurnTemplate()).render(odd)


@pytest.mark.parametrize(
    "template",
    [
        TurnTemplate(),
        TranscriptTemplate(),
        JinjaTemplate(GEMMA_3),
        Gemma4Template(closes_thoughts=True),
    ],
)
@pytest.mark.parametrize(
    "talk",
    [
        [],
        [Message("system", "x")],
        [Message("user", "x"), Message("assistant", "y")],
        [Message("user", "x"), Message("system", "y"), Message("user", "z")],
    ],
)
def test_a_conversation_without_a_question_is_refused(
    template: Template, talk: list[Message]
) -> None:
    with pytest.raises(UsageError):
        template.render(talk)


def test_what_the_template_refuses_is_said_in_its_words() -> None:
    talk = [Message("user", "a"), Message("user", "b")]
    with pytest.raises(TemplateError, match="roles must take turns"):
        JinjaTemplate(GEMMA_1_AND_2).render(talk)


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) %}{{ messages[0].content }}" + "x" * 1000 + "{% endfor %}",
        "{{ 'a' * 10 ** 10 }}",
        "{{ 10 ** 10 ** 10 }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ 'a'.ljust(10 ** 9) }}",
        "{{ 'a' | center(1000000000) }}",
        "{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(60) %}"
        "{% set t = ns.s + ns.s %}{% set ns.s = t %}{% endfor %}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{% include '/etc/passwd' %}",
        "{{ undefined_function() }}",
        "{{ 1 / 0 }}",
        "{% if %}",
        "no message is shown",
    ],
)
def test_a_hostile_or_broken_template_ends_as_an_error_and_soon(source: str) -> None:
    start = time.monotonic()
    with pytest.raises(TemplateError):
        JinjaTemplate(source).render([Message("user", "x")])
    assert time.monotonic() - start < 60
