"""JSON by a schema: what is allowed, how it is drawn, what is wrong with a schema."""

from __future__ import annotations

import gc
import json
import weakref
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gemma_cli.engine.grammar import ANY_OBJECT, Grammar, check_schema
from gemma_cli.engine.model import Model
from gemma_cli.engine.protocol import Sampling
from gemma_cli.engine.sampling import Sampler
from gemma_cli.engine.tokens import Vocabulary
from gemma_cli.errors import UsageError
from tests.logits import Logits, WrittenLogits, assert_fair, nucleus, softmax
from tests.scripted_model import scripted_gemma4

LETTERS = {"type": "string", "enum": ["a", "b", "c", "dd"]}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WrittenLogits]:
    path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    written = WrittenLogits(scripted_gemma4(path, ['{"', '": ', '"}', "true", '", "']))
    yield written
    written.close()


@pytest.fixture(scope="module")
def vocabulary(demo_gguf: Path) -> Iterator[Vocabulary]:
    model = Model(demo_gguf, 0, vocab_only=True)
    yield model.vocabulary
    model.close()


def allowed(vocabulary: Vocabulary, grammar: Grammar) -> set[int]:
    bits = np.frombuffer(grammar.mask(), dtype=np.uint8)
    return set(np.flatnonzero(np.unpackbits(bits, bitorder="little")[: vocabulary.size]).tolist())


def follow(vocabulary: Vocabulary, schema: Any, text: str) -> Grammar:
    """A grammar that has taken a text, token by token."""
    grammar = Grammar(vocabulary, json.dumps(schema))
    for token in vocabulary.plain(text):
        assert grammar.take(token), vocabulary.text_of(token)
    return grammar


def answer(written: WrittenLogits, sampling: Sampling, seed: int, most: int = 3000) -> str | None:
    """What is drawn when the model itself knows nothing; None: it went on for too long."""
    random = np.random.default_rng(seed)
    vocabulary, said = written.vocabulary, b""
    thought = vocabulary.special("<|channel>")
    sampler = Sampler(sampling, vocabulary)
    sampler.accept_prompt([vocabulary.bos])
    for _ in range(most):
        logits = random.normal(0, 3, vocabulary.size).astype(np.float32)
        logits[thought] = -np.inf
        token = sampler.sample(written.set(logits))
        if vocabulary.is_end(token):
            assert sampler.complete
            sampler.close()
            return said.decode()
        said += vocabulary.piece(token)
    sampler.close()
    return None


def test_a_grammar_that_nobody_waited_for_keeps_no_vocabulary(demo_gguf: Path) -> None:
    """Closing waits until the vocabulary is no longer read, and nothing holds it afterwards."""
    model = Model(demo_gguf, 0, vocab_only=True)
    held = weakref.ref(model.vocabulary)
    Sampler(Sampling(schema="true"), model.vocabulary).close()
    model.close()
    del model
    gc.collect()
    assert held() is None


def test_control_tokens_are_no_text_and_an_html_tag_is(vocabulary: Vocabulary) -> None:
    within = allowed(vocabulary, follow(vocabulary, {"type": "string"}, '"say '))
    assert vocabulary.plain("</s>")[0] in within
    assert vocabulary.plain("<b>")[0] in within
    special = vocabulary.special_tokens()
    assert len(special) > 6000
    assert not within & special
    for name in ("<eos>", "<end_of_turn>", "<bos>", "<start_of_image>", "<unused7>"):
        assert vocabulary.special(name) in special


def test_the_pieces_of_all_tokens_are_those_of_each(vocabulary: Vocabulary) -> None:
    assert vocabulary.pieces() == [vocabulary.piece(token) for token in range(vocabulary.size)]


def test_every_end_is_allowed_when_the_answer_is_whole_and_only_then(
    vocabulary: Vocabulary,
) -> None:
    ends = {vocabulary.special("<eos>"), vocabulary.special("<end_of_turn>")}
    grammar = Grammar(vocabulary, '{"type": "integer"}')
    assert not allowed(vocabulary, grammar) & ends
    assert not grammar.complete
    grammar = follow(vocabulary, {"type": "integer"}, "12")
    assert allowed(vocabulary, grammar) > ends
    assert grammar.complete
    assert grammar.end is None
    grammar = follow(vocabulary, LETTERS, '"dd"')
    assert grammar.complete
    assert grammar.end in ends


def test_white_space_is_one_space_after_a_comma_and_a_colon(vocabulary: Vocabulary) -> None:
    schema = {"type": "object", "additionalProperties": {"type": "array", "minItems": 2}}
    text = '{"a": [1, {}], "b": [true, [null, "x"]]}'
    assert json.dumps(json.loads(text)) == text
    assert follow(vocabulary, schema, text).complete
    for broken in ("{ ", '{"a":[', '{"a":  [', '{"a": [1,2', '{"a": [1, 2]\n', "\n{"):
        grammar = Grammar(vocabulary, json.dumps(schema))
        assert not all(grammar.take(token) for token in vocabulary.plain(broken))


def test_what_must_follow_is_offered_in_the_models_own_tokens(vocabulary: Vocabulary) -> None:
    schema = {
        "type": "object",
        "properties": {"temperature": {"type": "number"}},
        "required": ["temperature"],
        "additionalProperties": False,
    }
    grammar = Grammar(vocabulary, json.dumps(schema))
    forced = grammar.forced()
    assert '{"temperature": '.startswith(b"".join(map(vocabulary.piece, forced)).decode())
    assert len(forced) >= 3
    assert all(grammar.take(token) for token in forced)


@pytest.mark.parametrize(
    "said",
    ["<start_of_image>", "a [multimodal]b", "\u2581 x", "</s><end_of_turn>", "<0x0A>", "<b>"],
)
def test_what_must_follow_is_text_though_it_looks_like_a_control_token(
    vocabulary: Vocabulary, said: str
) -> None:
    grammar = Grammar(vocabulary, json.dumps({"const": said}))
    raw = b""
    while grammar.end is None:
        tokens = allowed(vocabulary, grammar)
        token = min(tokens)
        assert grammar.take(token), (vocabulary.text_of(token), len(tokens))
        raw += vocabulary.piece(token)
    assert json.loads(raw) == said


@pytest.mark.parametrize("top_k", [0, 300])
def test_a_refused_token_is_drawn_again_among_the_allowed(tiny: WrittenLogits, top_k: int) -> None:
    """An allowed token keeps its free probability; the weight of the others is shared anew."""
    vocabulary = tiny.vocabulary
    logits = np.random.default_rng(0).normal(0, 2, vocabulary.size).astype(np.float32)
    tokens = allowed(vocabulary, follow(vocabulary, {"type": "integer"}, "1"))
    assert len(tokens) > 5
    logits[list(tokens)] += 2
    masked = np.where(np.isin(np.arange(vocabulary.size), list(tokens)), logits, -np.inf)
    for top_p in (0.6, 1.0):
        sampling = Sampling(top_k=top_k, top_p=top_p, schema='{"type": "integer"}')
        free, again = nucleus(softmax(logits), top_p), nucleus(softmax(masked), top_p)
        kept = np.where(np.isin(np.arange(vocabulary.size), list(tokens)), free, 0)
        expected = kept + (1 - kept.sum()) * again
        drawn = Counter(second_token(tiny, logits, sampling, seed) for seed in range(1500))
        assert_fair(drawn, expected)
        if top_p == 1:  # then it is exactly the model's own distribution over what is allowed
            np.testing.assert_allclose(expected, softmax(masked), atol=1e-6)


def second_token(written: WrittenLogits, logits: Logits, sampling: Sampling, seed: int) -> int:
    """Drawn after "1", which is forced by its logit."""
    first = np.full(len(logits), -50, dtype=np.float32)
    first[written.vocabulary.plain("1")] = 50
    sampler = Sampler(
        Sampling(top_k=sampling.top_k, top_p=sampling.top_p, schema=sampling.schema, seed=seed),
        written.vocabulary,
    )
    sampler.sample(written.set(first))
    token = sampler.sample(written.set(logits))
    sampler.close()
    return token


def test_greedy_decoding_takes_the_best_of_the_allowed(tiny: WrittenLogits) -> None:
    schema = {"type": "array", "items": LETTERS, "minItems": 2, "maxItems": 2}
    sampling = Sampling(temperature=0, schema=json.dumps(schema))
    texts = {answer(tiny, sampling, seed=3) for _ in range(3)}
    assert len(texts) == 1
    jsonschema.validate(json.loads(texts.pop() or ""), schema)


def test_the_same_seed_gives_the_same_json(tiny: WrittenLogits) -> None:
    options: dict[str, Any] = {"temperature": 1.5, "presence_penalty": 0.2, "xtc_probability": 0.3}
    sampling = Sampling(seed=11, schema=ANY_OBJECT, **options)
    assert answer(tiny, sampling, seed=1, most=60) == answer(tiny, sampling, seed=1, most=60)


def say(written: WrittenLogits, sampler: Sampler, *names: str) -> list[str]:
    """What is drawn when the model is sure of these tokens, one after the other."""
    vocabulary, said = written.vocabulary, []
    ids = {vocabulary.text_of(token): token for token in range(vocabulary.size)}
    for name in names:
        logits = np.zeros(vocabulary.size, dtype=np.float32)
        logits[ids[name]] = 50
        said.append(vocabulary.text_of(sampler.sample(written.set(logits))))
    return said


def test_the_schema_holds_for_what_follows_the_thoughts(tiny: WrittenLogits) -> None:
    sampling = Sampling(temperature=0, schema='{"const": {"x": true}}')
    thought = ("<|channel>", "the", "\n", "true", "<channel|>")
    answered = ['{"', "x", '": ', "true", "<0x7D>"]
    for prompt, begins in (((), thought), ((thought[0],), thought[1:]), (thought, ())):
        sampler = Sampler(sampling, tiny.vocabulary)
        sampler.accept_prompt([tiny.vocabulary.special(name) or 0 for name in prompt])
        assert say(tiny, sampler, *begins) == list(begins)
        assert not sampler.complete
        # It wants another thought in the middle of its answer, and does not get it.
        assert say(tiny, sampler, '{"', "<|channel>", '": ', "true", "<0x7D>") == answered
        assert sampler.complete
        sampler.close()


def test_an_end_within_a_thought_is_no_complete_answer(tiny: WrittenLogits) -> None:
    sampler = Sampler(Sampling(temperature=0, schema="true"), tiny.vocabulary)
    assert say(tiny, sampler, "<|channel>", "the", "<turn|>")[-1] == "<turn|>"
    assert sampler.complete is False
    assert sampler.forced() == []
    sampler.close()


def schemas() -> st.SearchStrategy[Any]:
    """Schemas whose answers are short enough to be finished by a model that knows nothing."""
    small = st.integers(0, 2)
    leaves = st.one_of(
        st.sampled_from([{"type": "null"}, {"type": "boolean"}, {"const": {"a": [1, "é"]}}]),
        st.lists(st.text('ab"\\é€ \n</s>', max_size=4), min_size=1, max_size=3).map(
            lambda values: {"enum": values}
        ),
        st.builds(
            lambda low, span: {"type": "integer", "minimum": low, "maximum": low + span},
            st.integers(-50, 50),
            st.integers(0, 500),
        ),
        st.builds(
            lambda low, span: {"type": "string", "minLength": low, "maxLength": low + span},
            small,
            small,
        ),
        st.just({"type": "string", "pattern": "^[a-c]{1,3}-[0-9]{2}$"}),
        st.just({"type": "string", "format": "date"}),
    )

    def arrays(items: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.builds(
            lambda item, low, span: {
                "type": "array", "items": item, "minItems": low, "maxItems": low + span
            },
            items, small, small,
        )  # fmt: skip

    def objects(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        names = st.text('abcé_ "/~', min_size=1, max_size=4)
        return st.builds(
            lambda properties, first: {
                "type": "object",
                "properties": properties,
                "required": list(properties)[: first + 1],
                "additionalProperties": False,
            },
            st.dictionaries(names, values, max_size=3),
            small,
        )

    def unions(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.lists(parts, min_size=1, max_size=2).map(lambda each: {"anyOf": each})

    nested = st.recursive(
        leaves, lambda inner: st.one_of(arrays(inner), objects(inner), unions(inner)), max_leaves=5
    )
    referred = nested.map(
        lambda inner: {
            "$defs": {"it": inner},
            "type": "object",
            "properties": {"it": {"$ref": "#/$defs/it"}},
            "required": ["it"],
            "additionalProperties": False,
        }
    )
    return st.one_of(nested, referred)


@given(
    schemas(),
    st.sampled_from(
        [
            Sampling(),
            Sampling(temperature=0),
            Sampling(temperature=3, top_k=0, top_p=1),
            Sampling(top_k=0, top_p=0.8, repeat_penalty=1.2, dry_multiplier=0.8),
            Sampling(top_k=5, min_p=0.1, xtc_probability=0.5),
        ]
    ),
    st.integers(0, 2**31),
)
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_what_is_drawn_satisfies_any_schema(
    tiny: WrittenLogits, schema: Any, sampling: Sampling, seed: int
) -> None:
    text = json.dumps(schema)
    check_schema(text)
    said = answer(tiny, Sampling(**{**_values(sampling), "schema": text, "seed": seed}), seed)
    assert said is not None, "it did not end"
    jsonschema.validate(json.loads(said), schema)


def _values(sampling: Sampling) -> dict[str, Any]:
    return {name: getattr(sampling, name) for name in Sampling.__slots__}


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ("{", "not JSON: .*line 1, column 2"),
        ('{"minimum": NaN}', "not JSON"),
        ("[1]", "must be a JSON object"),
        ('"text"', "must be a JSON object"),
        ("false", "satisfies the schema false"),
        ('{"typ": "object"}', r"unknown keyword 'typ' .*at #\)"),
        ('{"properties": {"a": {"items": {"mininum": 1}}}}', r"'mininum' .*#/properties/a/items"),
        ('{"properties": {"a/b": {"type": "strin"}}}', r"type: strin \(at #/properties/a~1b\)"),
        ('{"properties": {"a": 5}}', "#/properties/a must be an object"),
        ('{"$ref": "#/$defs/x"}', "leads nowhere: #/"),
        ('{"anyOf": [{}, {"$ref": "https://example.com/s.json"}]}', "not followed.*#/anyOf/1"),
        ('{"$ref": "other.json#/a"}', "not followed"),
        ('{"$ref": 3}', "must be a text"),
        ('{"type": "number", "minimum": 5, "maximum": 3}', "minimum .5. is greater"),
        (
            '{"properties": {"n": {"type": "integer", "minimum": 5, "maximum": 3}},'
            ' "required": ["n"], "type": "object"}',
            "greater than maximum.*#/properties/n",
        ),
        ('{"type": "array", "uniqueItems": true}', "uniqueItems is not supported"),
        ('{"$defs": {"a": {"not": {}}}, "$ref": "#/$defs/a"}', r"not is not supported.*#/\$defs/a"),
        ('{"type": "string", "pattern": "("}', "unclosed group"),
        ('{"type": "string", "format": "colour"}', "unknown format: colour"),
        ('{"enum": []}', "nsatisfiable"),
        (
            '{"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}',
            "requires itself without end",
        ),
        (
            '{"$defs": {"n": {"anyOf": [{"type": "array", "items": {"$ref": "#/$defs/n"},'
            ' "minItems": 1}]}}, "$ref": "#/$defs/n"}',
            "requires itself without end",
        ),
        ('{"items": ' * 5000 + "{}" + "}" * 5000, "nested too deeply"),
        ('{"items": ' * 200 + "{}" + "}" * 200, "nested too deeply"),
        # The compiler rounds these, and crashes on the first one.
        ('{"const": -9223372036854775808}', r"const has the number -9223372036854775808.*at #\)"),
        ('{"enum": [[{"a": 9007199254740993}]]}', "enum has the number 9007199254740993"),
        ('{"items": {"const": {"a": 1e400}}}', "number inf;.*at #/items"),
        (f'{{"const": 1{"0" * 400}}}', "number 1000"),
        ('{"type": "integer", "minimum": 100000000000000000000}', "minimum has the number"),
        ('{"type": "number", "exclusiveMaximum": -1e16}', "exclusiveMaximum has the number"),
        ('{"type": "integer", "multipleOf": 4294967295, "maximum": 1e15}', "too long.*at #"),
        ('{"type": "integer", "multipleOf": 2147483648, "maximum": 1e15}', "too long.*at #"),
        ('{"allOf": [{"multipleOf": 9973}, {"multipleOf": 9967}]}', "9973 and 9967 takes too long"),
        (
            '{"$defs": {"a": {"multipleOf": 9973}}, "$ref": "#/$defs/a", "multipleOf": 9967}',
            "9967 and 9973 takes too long",
        ),
        ('{"type": "number", "maximum": 1e300}', "limits of a number are too large"),
        ('{"type": "string", "maxLength": 4294967296}', "limit of a length is too large"),
        ('{"title": "' + "x" * 1_100_000 + '"}', "too large"),
        ('{"type": "object", "required": "a"}', "required"),
        ('{"type": "array", "minItems": "3"}', "minItems"),
        ('{"allOf": 5}', "allOf"),
        (f'{{"maximum": {"9" * 5000}}}', "number that is too long"),
        ('{"$defs": 5}', r"\$defs must be an object"),
        ('{"oneOf": [{"const": 1}, {"type": "integer"}]}', "oneOf may overlap.*anyOf is"),
        ('{"type": "string", "pattern": "^a$", "minLength": 5}', "cannot all hold at once"),
    ],
)
def test_a_schema_that_cannot_be_used_is_told_with_its_place(schema: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        check_schema(schema)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    "schema",
    [
        "true",
        "{}",
        ANY_OBJECT,
        '{"$schema": "https://json-schema.org/draft/2020-12/schema", "x-note": 1, "type": "null"}',
        '{"$defs": {"n": {"type": "object", "properties": {"next": {"$ref": "#/$defs/n"}}}},'
        ' "$ref": "#/$defs/n"}',
        '{"$defs": {"n": {"type": "array", "minItems": 1, "items": {"anyOf": [{"type": "null"},'
        ' {"$ref": "#/$defs/n"}]}}}, "$ref": "#/$defs/n"}',
        '{"$defs": {"a": {"$anchor": "truth", "type": "boolean"}}, "$ref": "#truth"}',
        '{"type": "integer", "multipleOf": 640000}',
        '{"type": "integer", "anyOf": [{"multipleOf": 9973}, {"multipleOf": 9967}]}',
        '{"enum": [9007199254740992, -9007199254740992, [0.1, true, null]]}',
        '{"type": "integer", "minimum": 0, "maximum": 18446744073709551615}',
    ],
)
def test_a_schema_that_can_be_used_passes(schema: str) -> None:
    check_schema(schema)


@pytest.mark.parametrize(("last", "fault"), [("integer", None), ("array", "requires itself")])
def test_each_reference_is_followed_once(last: str, fault: str | None) -> None:
    """Two in each part would be a thousand million ways through thirty."""
    twice = {f"a{n}": {"anyOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(30)}
    end = {"type": last, "minItems": 1, "items": {"$ref": "#/$defs/a30"}}
    schema = json.dumps({"$ref": "#/$defs/a0", "$defs": {**twice, "a30": end}})
    if fault:
        with pytest.raises(UsageError, match=fault):
            check_schema(schema)
    else:
        check_schema(schema)
