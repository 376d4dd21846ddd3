"""`gemma run` on the real 270M: seeds, options, JSON by schema; what is refused, and when."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from tests.conftest import DEMO, Env, Gemma

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 1, "maximum": 99},
        "colours": {"type": "array", "items": {"enum": ["red", "green"]}, "maxItems": 2},
    },
    "required": ["name", "age", "colours"],
    "additionalProperties": False,
}
ASK = ("run", "-m", DEMO, "--raw", "A person as JSON: ")


@pytest.mark.usefixtures("with_demo")
@pytest.mark.parametrize(
    "options",
    [
        ["--seed", "5"],
        ["--seed", "4294967294", "--top-k", "0", "--xtc-probability", "0.5"],
        ["--seed", "5", "--top-k", "0", "--top-p", "1", "--dry-multiplier", "0.8"],
    ],
)
def test_a_seed_gives_the_same_answer_in_another_process(gemma: Gemma, options: list[str]) -> None:
    first, again = (gemma(*ASK, "-n", "16", *options) for _ in range(2))
    assert first.returncode == 0, first.stderr
    assert first.stdout == again.stdout != ""
    schema = [*options, "--temp", "2", "--schema", json.dumps(PERSON)]
    first, again = (gemma(*ASK, *schema) for _ in range(2))
    assert first.returncode == 0, first.stderr
    assert first.stdout == again.stdout
    jsonschema.validate(json.loads(first.stdout), PERSON)


@pytest.mark.usefixtures("with_demo")
def test_a_schema_from_a_file_and_its_answer_as_json(gemma: Gemma, tmp_path: Path) -> None:
    file = tmp_path / "person.json"
    file.write_text(json.dumps(PERSON), encoding="utf-8")
    done = gemma("run", "-m", DEMO, "Who are you?", "--schema", str(file), "--json", "-t", "0")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["stop_reason"] == "end"
    assert report["parsed"] == json.loads(report["text"])
    jsonschema.validate(report["parsed"], PERSON)


@pytest.mark.usefixtures("with_demo")
def test_any_object(gemma: Gemma) -> None:
    done = gemma(*ASK, "--json-object", "-t", "0", "-n", "60")
    assert done.returncode == 0, done.stderr
    if "cut" not in done.stderr:
        assert isinstance(json.loads(done.stdout), dict)


@pytest.mark.usefixtures("with_demo")
def test_json_that_was_cut_is_said_to_be(gemma: Gemma) -> None:
    done = gemma(*ASK, "--schema", json.dumps(PERSON), "-n", "4", "-t", "0")
    assert done.returncode == 0
    assert "cut at --max-tokens 4" in done.stderr
    assert "does not satisfy the schema" in done.stderr
    done = gemma(*ASK, "--schema", json.dumps(PERSON), "-n", "4", "-t", "0", "--json")
    report = json.loads(done.stdout)
    assert report["stop_reason"] == "length"
    assert "parsed" not in report


@pytest.mark.usefixtures("with_demo")
def test_a_stop_string_within_json_leaves_it_incomplete(gemma: Gemma) -> None:
    done = gemma(*ASK, "--schema", '{"const": "red apple"}', "--stop", "apple", "--json")
    report = json.loads(done.stdout)
    assert (report["text"], report["stop_reason"]) == ('"red ', "end")
    assert "parsed" not in report
    assert "does not satisfy the schema" in done.stderr


@pytest.mark.usefixtures("with_demo")
def test_a_pattern_too_large_for_the_grammar_engine_is_said(gemma: Gemma) -> None:
    """It shows only with the first token: the states of a pattern are made when they are met."""
    schema = json.dumps({"type": "string", "pattern": "^(a{1000}){1000}$"})
    done = gemma(*ASK, "--schema", schema, "-t", "0")
    assert done.returncode == 1
    assert "the schema is too much for the grammar engine: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("with_demo")
def test_stop_strings_and_biases(gemma: Gemma, with_demo: Env) -> None:
    ask = ("run", "-m", DEMO, "--raw", "1 2 3 4", "-t", "0", "-n", "12")
    plain = gemma(*ask)
    assert " 5 6 7" in plain.stdout
    assert gemma(*ask, "--stop", "never", "--stop", " 6").stdout == " 5\n"
    assert " 5" not in gemma(*ask, "--logit-bias", '"5"=-100').stdout
    config = Path(with_demo["GEMMA_HOME"]) / "config" / "config.toml"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text('stop = [" 7"]\npresence_penalty = 0.0\n', encoding="utf-8")
    assert gemma(*ask).stdout == " 5 6\n"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--schema", "{"], "the schema is not JSON"),
        (["--schema", "[1]"], "must be a JSON object"),
        (["--schema", "nowhere.json"], "cannot read nowhere.json"),
        (["--schema", '{"properties": {"a": {"type": "strin"}}}'], "at #/properties/a"),
        (["--schema", '{"$ref": "http://127.0.0.1:1/x"}'], "not followed"),
        (["--schema", '{"type": "integer", "minimum": 2, "maximum": 1}'], "nsatisfiable"),
        (["--schema", "{}", "--json-object"], "give one"),
    ],
)
def test_a_bad_schema_is_named_before_any_model_is_looked_for(
    gemma: Gemma, options: list[str], said: str
) -> None:
    done = gemma("run", "-m", "no-such-model", "Hi", *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("with_demo")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--presence-penalty", "-1"], "--presence-penalty must be between 0.0 and"),
        (["--frequency-penalty", "nan"], "--frequency-penalty must be"),
        (["--repeat-penalty", "-2"], "--repeat-penalty must be"),
        (["--temp", "inf"], "--temp must be"),
        (["--top-k", "99999999999"], "--top-k must be"),
        (["--repeat-last-n", "-1"], "--repeat-last-n must be"),
        (["--dry-multiplier", "-0.1"], "--dry-multiplier must be"),
        (["--dry-base", "0.5"], "--dry-base must be"),
        (["--xtc-probability", "1.5"], "--xtc-probability must be"),
        (["--xtc-threshold", "0.9"], "--xtc-threshold must be"),
        (["--seed", "4294967295"], "--seed must be"),
        (["--stop", ""], "--stop must be a text"),
        (["--threads", "100000"], "--threads must be 512 or less"),
        (["--ctx", "9" * 20], "--ctx must be"),
        (["--gpu-layers", "9" * 20], "--gpu-layers must be"),
        (["--logit-bias", "5"], "--logit-bias takes"),
        (["--logit-bias", "5=inf"], "must be between"),
        (["--logit-bias", "262144=1"], "no token 262144"),
        (["--logit-bias", "two words=1"], "2 tokens of this model"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused(
    gemma: Gemma, options: list[str], said: str
) -> None:
    done = gemma("run", "-m", DEMO, "Hi", *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("with_demo")
def test_a_draft_model_that_is_not_used_is_said(gemma: Gemma) -> None:
    done = gemma(*ASK, "-n", "2", "--draft", DEMO, "--no-speculate", "--stats")
    assert done.returncode == 0
    assert f"without speculation no draft model is used: {DEMO}" in done.stderr
    assert "drafts right" not in done.stderr
