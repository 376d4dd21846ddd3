"""`gemma prompts` and `gemma run --prompt`, as typed."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path

import pytest

from tests.conftest import Env, Gemma


@pytest.fixture
def own(home: Env) -> Path:
    folder = Path(home["GEMMA_HOME"]) / "config" / "prompts"
    folder.mkdir(parents=True)
    return folder


def editor(tmp_path: Path, body: str) -> Env:
    """An editor that runs Python on the file in sys.argv[1]."""
    script = tmp_path / "my editor.py"
    script.write_text(f"import sys, os\nfrom pathlib import Path\nf = Path(sys.argv[1])\n{body}\n")
    return {"VISUAL": f'"{sys.executable}" "{script}"'}


def test_the_list_names_every_prompt_and_what_is_wrong(gemma: Gemma, own: Path) -> None:
    (own / "bad.md").write_text("+++\nx\n")
    (own / "mine.md").write_text(
        "+++\ndescription = 'My \\u001b[31mown'\n+++\n{{text}}".replace("'", '"')
    )
    done = gemma("prompts", "list")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert any(line.startswith("summarise ") for line in lines)
    assert any(line.startswith("mine ") and line.endswith("My [31mown  (yours)") for line in lines)
    assert "bad.md, line 1" in done.stderr
    listed = {each["name"]: each for each in json.loads(gemma("prompts", "list", "--json").stdout)}
    assert listed["bad"]["problem"]
    assert listed["task"] == {
        "name": "task",
        "description": "A structured task (context=, constraints=, format=)",
        "source": "built in",
        "problem": None,
    }


def test_show_prints_the_file_or_its_parts(gemma: Gemma, own: Path) -> None:
    text = gemma("prompts", "show", "translate").stdout
    (own / "copy.md").write_text(text)
    assert gemma("prompts", "show", "copy").stdout == text
    shown = json.loads(gemma("prompts", "show", "--json", "translate").stdout)
    assert shown["variables"] == [
        {"name": "to", "default": "English"},
        {"name": "tone", "default": ""},
    ]
    assert shown["options"] == {"temp": 0.2}
    assert "{{to}}" in shown["message"]
    done = gemma("prompts", "show", "translat")
    assert done.returncode == 2
    assert "translate" in done.stderr


def test_path_is_for_scripts(gemma: Gemma, own: Path) -> None:
    assert gemma("prompts", "path").stdout == f"{own}\n"
    (own / "mine.md").write_text("{{text}}")
    assert gemma("prompts", "path", "mine").stdout == f"{own / 'mine.md'}\n"


def test_edit_makes_a_copy_of_ones_own(gemma: Gemma, own: Path, tmp_path: Path) -> None:
    append = editor(tmp_path, "f.write_text(f.read_text() + '\\nAnd be brief.\\n')")
    done = gemma("prompts", "edit", "explain", env=append)
    assert done.returncode == 0, done.stderr
    file = own / "explain.md"
    assert file.read_text().endswith("{{text}}\n\nAnd be brief.\n")
    assert sorted(own.iterdir()) == [file]
    if os.name != "nt":
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert gemma("prompts", "edit", "explain", env=append).returncode == 0
    assert file.read_text().count("And be brief.") == 2


def test_edit_begins_a_new_one(gemma: Gemma, own: Path, tmp_path: Path) -> None:
    change = editor(tmp_path, "f.write_text(f.read_text().replace('{{text}}', 'New: {{text}}'))")
    assert gemma("prompts", "edit", "mine", env=change).returncode == 0
    assert "New: {{text}}" in (own / "mine.md").read_text()


def test_an_unchanged_text_makes_no_file(gemma: Gemma, own: Path, tmp_path: Path) -> None:
    done = gemma("prompts", "edit", "explain", env=editor(tmp_path, ""))
    assert done.returncode == 0
    assert "nothing was changed" in done.stderr
    assert list(own.iterdir()) == []


def test_a_wrong_text_stays_a_draft_that_the_next_edit_goes_on_with(
    gemma: Gemma, own: Path, tmp_path: Path
) -> None:
    (own / "mine.md").write_text("Good: {{text}}")
    wrong = editor(tmp_path, "f.write_text('Wrong, hours of work')")
    done = gemma("prompts", "edit", "mine", env=wrong)
    assert done.returncode == 1
    assert "line 1: the message has no {{text}}" in done.stderr
    assert "gemma prompts edit mine" in done.stderr
    assert (own / "mine.md").read_text() == "Good: {{text}}"
    mend = editor(tmp_path, "f.write_text(f.read_text() + ': {{text}}')")
    done = gemma("prompts", "edit", "mine", env=mend)
    assert done.returncode == 0, done.stderr
    assert "draft" in done.stderr
    assert (own / "mine.md").read_text() == "Wrong, hours of work: {{text}}"
    assert [path.name for path in own.iterdir()] == ["mine.md"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("f.write_text('Half {{text}}'); sys.exit(3)", "exit code 3"),
        ("f.write_text('Half {{text}}'); os.kill(os.getpid(), 9)", "signal 9"),
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_an_editor_that_fails_loses_nothing(
    gemma: Gemma, own: Path, tmp_path: Path, body: str, said: str
) -> None:
    (own / "mine.md").write_text("Good: {{text}}")
    done = gemma("prompts", "edit", "mine", env=editor(tmp_path, body))
    assert done.returncode == 1
    assert said in done.stderr
    assert (own / "mine.md").read_text() == "Good: {{text}}"
    assert (own / "drafts" / "mine.md").read_text() == "Half {{text}}"


@pytest.mark.parametrize(
    ("value", "said"), [("no-such-editor-at-all", "no-such-editor-at-all"), ('"unclosed', "VISUAL")]
)
def test_an_editor_that_is_none_is_named(gemma: Gemma, own: Path, value: str, said: str) -> None:
    done = gemma("prompts", "edit", "explain", env={"VISUAL": value})
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (own / "explain.md").exists()


@pytest.mark.parametrize("name", ["../x", "a/b", "x.md", "-x", "x y", ""])
def test_a_name_that_would_be_another_file_is_refused(gemma: Gemma, own: Path, name: str) -> None:
    done = gemma("prompts", "edit", "--", name, env={"VISUAL": "true"})
    assert done.returncode == 2
    assert list(own.iterdir()) == []


def test_rm_removes_ones_own_alone(gemma: Gemma, own: Path) -> None:
    (own / "explain.md").write_text("{{text}}")
    assert gemma("prompts", "rm", "explain").returncode == 2  # nobody can be asked
    assert gemma("prompts", "rm", "-y", "explain").returncode == 0
    assert "plain words" in gemma("prompts", "show", "explain").stdout
    assert "built in" in gemma("prompts", "rm", "-y", "explain").stderr


def test_a_wrong_file_is_shown_with_what_is_wrong(gemma: Gemma, own: Path) -> None:
    (own / "half.md").write_text("+++\ntemp")
    done = gemma("prompts", "show", "half")
    assert (done.returncode, done.stdout) == (2, "+++\ntemp\n")
    assert "line 1: a second line of +++" in done.stderr


def test_a_file_is_corrected_where_it_is(gemma: Gemma, own: Path) -> None:
    elsewhere = own.parent / "review.md"
    for text, wrong in (("", "line 1: there is nothing in it"), ("x", "has no {{text}}")):
        elsewhere.write_text(text)
        done = gemma("run", "-p", str(elsewhere), "Hi")
        assert done.returncode == 2
        assert wrong in done.stderr
        assert f"correct it: {elsewhere}" in done.stderr


def test_options_that_no_answer_could_have_are_the_prompts_fault(
    gemma: Gemma, own: Path, tmp_path: Path
) -> None:
    cold = "+++\n[options]\ntemp = -5\n+++\n{{text}}"
    (own / "cold.md").write_text(cold)
    for command in (("run", "-p", "cold", "Hi"), ("prompts", "show", "cold")):
        done = gemma(*command)
        assert done.returncode == 2
        assert "the prompt cold: --temp must be between" in done.stderr
        assert str(own / "cold.md") in done.stderr
    done = gemma("prompts", "edit", "mine", env=editor(tmp_path, f"f.write_text({cold!r})"))
    assert done.returncode == 1
    assert "not taken over: the prompt mine: --temp must be between" in done.stderr
    assert not (own / "mine.md").exists()


@pytest.mark.skipif(os.name == "nt", reason="an editor there has its own window")
def test_without_a_terminal_no_editor_is_guessed(gemma: Gemma, own: Path) -> None:
    done = gemma("prompts", "edit", "mine", env={"VISUAL": "", "EDITOR": ""}, timeout=90)
    assert done.returncode == 1
    assert "no terminal that an editor could open in" in done.stderr
    assert list(own.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="a POSIX shell")
def test_a_draft_that_cannot_be_read_is_named(gemma: Gemma, own: Path) -> None:
    folder = {"VISUAL": "sh -c 'rm $0; mkdir $0'"}
    for _ in range(2):
        done = gemma("prompts", "edit", "mine", env=folder)
        assert done.returncode == 1
        assert f"cannot read {own / 'drafts' / 'mine.md'}: Is a directory" in done.stderr
