"""Kept prompts: read from files, filled as data, listed with what is wrong in them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemma_cli import prompts
from gemma_cli.errors import UsageError
from gemma_cli.prompts.parsing import parse


def read_or_problem(text: str, name: str) -> tuple[prompts.Prompt | None, str]:
    try:
        return read(text, name), ""
    except UsageError as error:
        return None, error.message


BUILT_IN = {"explain", "summarise", "review", "translate", "tutor", "task", "proofread"}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a person's own prompts."""
    monkeypatch.setenv("GEMMA_HOME", str(tmp_path))
    folder = prompts.folder()
    folder.mkdir(parents=True)
    return folder


def read(text: str, name: str = "mine.md") -> prompts.Prompt:
    return parse(text, Path(name), name)


@pytest.mark.usefixtures("own")
def test_every_built_in_prompt_is_whole() -> None:
    listed = prompts.names()
    assert {each.name for each in listed} >= BUILT_IN
    for each in listed:
        assert each.problem is None
        assert each.description
        assert each.source == "built in"
        filled = prompts.load(each.name).fill({}, "THE TEXT")
        assert filled.message is not None
        assert filled.message.count("THE TEXT") == 1
        assert "{{" not in filled.system + filled.message
        assert "\\" not in filled.system + filled.message  # TOML's line ends are none in a message
        assert filled.system


@pytest.mark.usefixtures("own")
def test_values_take_the_place_of_defaults() -> None:
    translate = prompts.load("translate")
    assert "into English" in translate.fill({}).system
    filled = translate.fill({"to": "German"}, "Hello")
    assert "into German" in filled.system
    assert filled.message == "Translate into German:\n\nHello"
    assert filled.options.temp == 0.2


@pytest.mark.usefixtures("own")
def test_a_paragraph_without_any_value_is_left_out() -> None:
    task = prompts.load("task")
    assert task.fill({}, "Do it").message == "Task:\nDo it"
    said = task.fill({"context": "Here", "format": "a list"}, "Do it").message
    assert said == "Task:\nDo it\n\nContext:\nHere\n\nFormat of the answer:\na list"


def test_a_prompt_without_text_gives_its_system_text_alone() -> None:
    prompt = read('+++\nsystem = "Speak {{language}}."\n+++\n{{text}} {{more}}')
    assert prompt.fill({"language": "Latin"}).message is None
    with pytest.raises(UsageError, match="'language'"):
        prompt.fill({})
    with pytest.raises(UsageError, match="'more'"):
        prompt.fill({"language": "Latin"}, "x")


def test_a_variable_that_is_none_of_its_suggests_one() -> None:
    prompt = read("{{language=German}}: {{text}}")
    with pytest.raises(UsageError) as caught:
        prompt.fill({"langauge": "x"}, "x")
    assert "language" in (caught.value.hint or "")


def test_braces_behind_a_backslash_are_text() -> None:
    assert read("\\{{user.name}} {{text}}").fill({}, "x").message == "{{user.name}} x"


def test_plain_markdown_and_toml_alone_are_prompts_too() -> None:
    assert read("Say: {{text}}").fill({}, "x").message == "Say: x"
    filled = read('system = "S"\nmessage = "M {{text}}"\noptions = {top_k = 3}', "x.toml").fill(
        {}, "x"
    )
    assert (filled.system, filled.message, filled.options.top_k) == ("S", "M x", 3)
    assert read('system = "S"', "x.toml").fill({}, "x").message == "x"
    assert read("+++\r\nsystem = 'S'\r\n+++\r\n").fill({}, "x").message == "x"


def test_an_empty_value_is_none() -> None:
    prompt = read("Into {{to=English}}:\n\n{{tone=}}\n\n{{text}}")
    assert prompt.fill({"to": "", "tone": ""}, "x").message == "Into English:\n\nx"
    with pytest.raises(UsageError, match="needs a value for 'to'"):
        read("Into {{to}}: {{text}}").fill({"to": " "}, "x")


@given(st.text(), st.text())
def test_what_is_filled_in_is_data(value: str, text: str) -> None:
    filled = read("A {{v=}} B {{text}} C").fill({"v": value}, text)
    both_empty = not value.strip() and not text.strip()
    assert filled.message == ("" if both_empty else f"A {value} B {text} C")


@given(st.text(alphabet="+{}=\\\n ab[]\"'#:.t", max_size=60))
def test_any_text_is_a_prompt_or_a_clear_error(text: str) -> None:
    for name in ("x.md", "x.toml"):
        prompt, problem = read_or_problem(text, name)
        if prompt is None:
            assert f"{name}, line " in problem
        else:
            values = {each.name: "v" for each in prompt.variables}
            assert prompt.fill(values, "t").message is not None


@pytest.mark.parametrize(
    ("text", "line", "cause"),
    [
        ("+++\ndescription = 'x'\n", 1, "second line of +++"),
        ("+++\ndescription = 'x'\nsystem = \n+++\n", 3, "Invalid value"),
        ("+++\nsystem = 'x'\ntemp = 1\n+++\n", 3, "unknown key 'temp'"),
        ("+++\nsystem = 3\n+++\n", 2, "must be a text"),
        ("+++\n[options]\ntemp = 'hot'\n+++\n", 3, "must be a number"),
        ("+++\n[options]\nctx = 5\n+++\n", 3, "no option 'ctx'"),
        ("+++\nsystem = 'a {{text}}'\n+++\n", 2, "not in 'system'"),
        ("+++\nsystem = 'x'\n+++\n\nHello\n", 5, "has no {{text}}"),
        ("+++\n+++\n\nHello\n{{a-b}} {{text}}\n", 5, "{{a-b}} is no variable"),
        ("+++\nmessage = '{{text}}'\n+++\n", 2, "below the second"),
    ],
)
def test_a_wrong_file_is_named_with_its_line(text: str, line: int, cause: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(text)
    assert caught.value.message.startswith(f"mine.md, line {line}: ")
    assert cause in caught.value.message
    assert caught.value.hint == "correct it: gemma prompts edit mine"


def test_own_prompts_win_and_a_wrong_one_breaks_no_other(own: Path) -> None:
    (own / "translate.md").write_text("Mine: {{text}}")
    (own / "broken.toml").write_text("description = ")
    (own / "bytes.md").write_bytes(b"caf\xe9 {{text}}")
    (own / "notes.txt").write_text("no prompt")
    (own / "folder.md").mkdir()
    listed = {each.name: each for each in prompts.names()}
    assert prompts.load("Translate").fill({}, "x").message == "Mine: x"
    assert listed["translate"].source == str(own / "translate.md")
    assert "line 1" in (listed["broken"].problem or "")
    assert "not UTF-8" in (listed["bytes"].problem or "")
    assert "directory" in (listed["folder"].problem or "")
    assert "notes" not in listed
    assert listed["explain"].problem is None
    with pytest.raises(UsageError, match=r"broken\.toml, line 1"):
        prompts.load("broken")


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("name", ["summarize", "", "..", "x" * 300, "\x1b[2J", "a\0b"])
def test_a_name_that_is_none(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        prompts.load(name)
    if name == "summarize":
        assert "summarise" in (caught.value.hint or "")


def test_a_prompt_may_be_a_file_of_a_project(tmp_path: Path) -> None:
    (tmp_path / "review.md").write_text("Look: {{text}}")
    assert prompts.load(str(tmp_path / "review.md")).fill({}, "x").message == "Look: x"
    with pytest.raises(UsageError, match="cannot read"):
        prompts.load(str(tmp_path / "none.md"))
