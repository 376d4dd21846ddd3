"""The grammar of names: what people type, and what they mean."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemma_cli.errors import ExitCode, GemmaError, ModelNotFoundError, UsageError
from gemma_cli.models.catalog import canonical_quant, load_catalog, parse_name, with_quant


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMMA_HOME", str(tmp_path))


@pytest.mark.parametrize(
    ("typed", "name", "quant"),
    [
        ("gemma3:4b", "gemma3:4b", None),
        ("GEMMA3:4B", "gemma3:4b", None),
        ("gemma3:27b:q5_k_m", "gemma3:27b", "Q5_K_M"),
        ("gemma3:4b:qat", "gemma3:4b", "QAT_Q4_0"),
        ("gemma:2b", "gemma1:2b", None),
        ("gemma1.1:7b", "gemma1.1:7b", None),
        ("gemma3n:e4b", "gemma3n:e4b", None),
        ("gemma4:26b-a4b", "gemma4:26b", None),
        ("gemma4:26b:q4_k_m", "gemma4:26b", "UD-Q4_K_M"),
        ("gemma-3-27b-it", "gemma3:27b", None),
        ("google/gemma-3-27b-it", "gemma3:27b", None),
        ("google/gemma-2b-it", "gemma1:2b", None),
        ("google/gemma-4-26B-A4B-it", "gemma4:26b", None),
        ("gemma-3n-E4B-it", "gemma3n:e4b", None),
        ("gemma-3-4b", "gemma3:4b", None),
        ("gemma3-4b", "gemma3:4b", None),
        ("gemma-3-12b-it-qat-q4_0-gguf", "gemma3:12b", "QAT_Q4_0"),
        ("gemma3:4b-it-q8_0", "gemma3:4b", "Q8_0"),
        ("gemma3:270m-pt", "gemma3:270m-pt", None),
        ("gemma-3-270m", "gemma3:270m-pt", None),
        ("  gemma3:1b ", "gemma3:1b", None),
    ],
)
def test_catalogue_names(typed: str, name: str, quant: str | None) -> None:
    ref = parse_name(typed)
    assert (ref.kind, ref.name, ref.quant) == ("catalog", name, quant)
    assert ref.model is load_catalog().get(name)


def test_every_id_alias_and_quantization_can_be_typed() -> None:
    for model in load_catalog().models:
        for spelling in (model.id, *model.aliases):
            assert parse_name(spelling).name == model.id
            assert parse_name(spelling.upper()).name == model.id
        for file in model.files:
            ref = parse_name(f"{model.id}:{file.quant.lower()}")
            assert (ref.name, ref.quant) == (model.id, file.quant)
            assert parse_name(str(ref)) == ref


@pytest.mark.parametrize(
    ("typed", "repo", "file", "quant", "revision"),
    [
        ("hf:a/b", "a/b", None, None, None),
        ("hf:a/b:q4_k_m", "a/b", None, "Q4_K_M", None),
        ("hf:a/b:ud-q4_k_m", "a/b", None, "UD-Q4_K_M", None),
        ("hf:a/b:dir/x.gguf", "a/b", "dir/x.gguf", None, None),
        ("hf:a/b@refs/pr/1", "a/b", None, None, "refs/pr/1"),
        ("HF:a/b:x.GGUF@0123abc", "a/b", "x.GGUF", None, "0123abc"),
        ("hf.co/a/b:Q8_0", "a/b", None, "Q8_0", None),
        ("https://huggingface.co/a/b/", "a/b", None, None, None),
        ("https://huggingface.co/a/b/resolve/v1/x.gguf?download=true", "a/b", "x.gguf", None, "v1"),
        ("https://huggingface.co/a/b/blob/main/d/x.gguf", "a/b", "d/x.gguf", None, "main"),
    ],
)
def test_hub_references(
    typed: str, repo: str, file: str | None, quant: str | None, revision: str | None
) -> None:
    ref = parse_name(typed)
    assert (ref.kind, ref.repo, ref.file) == ("hub", repo, file)
    assert (ref.quant, ref.revision) == (quant, revision)


@pytest.mark.parametrize(
    "typed",
    [
        "",
        " ",
        "hf:",
        "hf:a",
        "hf:a/b/c",
        "hf:../b",
        "hf:a/..",
        "hf:a/b:../x.gguf",
        "hf:a/b:/etc/x.gguf",
        "hf:a/b:d//x.gguf",
        "hf:a/b:d\\x.gguf",
        "hf:a/b@../main",
        "hf:a/b:q4 k",
        "gemma3:\x1b[31m4b",
    ],
)
def test_what_is_no_name(typed: str) -> None:
    with pytest.raises(UsageError):
        parse_name(typed)


def test_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_name("/nowhere/x.gguf").path == Path("/nowhere/x.gguf")
    assert parse_name("x.GGUF").kind == "path"
    other = tmp_path / "weights.bin"
    other.touch()
    assert parse_name(str(other)).path == other
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse_name("~/x.gguf").path == tmp_path / "x.gguf"
    # An official name is no path unless such a file exists.
    monkeypatch.chdir(tmp_path)
    assert parse_name("google/gemma-3-4b-it").kind == "catalog"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("gema3:4b", "gemma3:4b"),
        ("gemma3:4c", "gemma3:4b"),
        ("gemma3:5b", "gemma3:4b"),
        ("gemma-3-4b-itt", "gemma3:4b"),
        ("gemma4:e3b", "gemma4:e"),
    ],
)
def test_near_misses_suggest(typed: str, meant: str) -> None:
    with pytest.raises(ModelNotFoundError) as error:
        parse_name(typed)
    assert error.value.exit_code == ExitCode.NO_MODEL
    assert "did you mean" in (error.value.hint or "")
    assert meant in (error.value.hint or "")


def test_something_else_entirely_suggests_nothing() -> None:
    with pytest.raises(ModelNotFoundError) as error:
        parse_name("llama-70b")
    assert error.value.hint == "See them all: gemma list --available"


def test_a_question_in_the_model_s_place_names_the_command_that_takes_it() -> None:
    with pytest.raises(ModelNotFoundError) as error:
        parse_name("what is the time?")
    assert 'gemma run "QUESTION"' in (error.value.hint or "")


def test_an_unknown_quantization_lists_those_there_are() -> None:
    with pytest.raises(ModelNotFoundError) as error:
        parse_name("gemma3:4b:q3_k_s")
    assert "there are: Q8_0, Q6_K, Q5_K_M, QAT_Q4_0, Q4_K_M, Q4_0" in (error.value.hint or "")


def test_with_quant() -> None:
    assert with_quant(parse_name("gemma3:4b:q8_0"), "q6_k").quant == "Q6_K"
    assert with_quant(parse_name("hf:a/b:x.gguf"), "q6_k").file is None
    with pytest.raises(UsageError):
        with_quant(parse_name("x.gguf"), "q6_k")
    with pytest.raises(ModelNotFoundError):
        with_quant(parse_name("gemma3:4b"), "nonsense")


def test_quantizations_have_one_spelling() -> None:
    spellings = ("qat", "QAT_Q4_0", "qat-q4_0", "q4_0-qat")
    assert {canonical_quant(text) for text in spellings} == {"QAT_Q4_0"}
    assert canonical_quant("ud-Q4_K_M") == "UD-Q4_K_M"
    assert canonical_quant("q5-k-m") == "Q5_K_M"


@given(st.one_of(st.text(), st.from_regex(r"(hf:|gemma)[\w:/@.\-]*", fullmatch=True)))
def test_any_text_is_a_name_or_a_clear_error(text: str) -> None:
    with contextlib.suppress(GemmaError):
        assert parse_name(text).name
