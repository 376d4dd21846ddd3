"""Chat templates: where each generation puts things, and that words stay words."""

from __future__ import annotations

import time

import pytest

from gemma_cli.engine.protocol import Message, Segment
from gemma_cli.engine.template import JinjaTemplate
from gemma_cli.engine.turns import Template, TranscriptTemplate, TurnTemplate
from gemma_cli.errors import TemplateError, UsageError

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


@pytest.mark.parametrize("template", [TurnTemplate(), TranscriptTemplate(), JinjaTemplate(GEMMA_3)])
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
    assert time.monotonic() - start < 10
