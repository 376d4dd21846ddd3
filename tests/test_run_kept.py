"""`gemma run` with kept prompts, in the history, and beside the shell's own tools."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import Env, Gemma, program

POSIX_ONLY = pytest.mark.skipif(os.name == "nt", reason="POSIX shells and signals")
ENDLESS = '{"type": "array", "items": {"type": "integer"}, "minItems": 5000}'
FEW = ("-t", "0", "-n", "6", "--no-cache")


@pytest.fixture(autouse=True)
def _demo(with_demo: Env) -> None:
    """Every test here has the embedded model at hand."""


def prompt_of(gemma: Gemma, *arguments: str, said: str | None = None) -> str:
    done = gemma("run", "--show-prompt", *arguments, input=said)
    assert done.returncode == 0, done.stderr
    text: str = json.loads(done.stdout)["text"]
    return text


def messages(home: Env) -> list[tuple[str, str, str]]:
    with sqlite3.connect(Path(home["GEMMA_HOME"]) / "data" / "history.db") as db:
        return db.execute("SELECT role, status, text FROM message ORDER BY id").fetchall()


def test_a_prompt_takes_stdin_files_and_words_as_its_text(gemma: Gemma, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("from a file")
    text = prompt_of(
        gemma,
        "-p",
        "translate",
        "--var",
        "to=German",
        "-f",
        str(tmp_path / "a.txt"),
        "words",
        said="piped {{to}}\n",
    )
    assert "Translate into German:\n\npiped {{to}}\n\nfrom a file\n\nwords\n" in text
    assert "You translate into German." in text


def test_what_is_said_wins_over_the_prompt(gemma: Gemma, home: Env) -> None:
    own = Path(home["GEMMA_HOME"]) / "config" / "prompts"
    own.mkdir(parents=True)
    (own / "two.md").write_text("+++\nsystem = 'MINE'\n[options]\nmax_tokens = 2\n+++\nQ: {{text}}")
    (own.parent / "config.toml").write_text("max_tokens = 9\nsystem = 'SET'\n")
    assert "MINE" in prompt_of(gemma, "-p", "two", "x")
    assert "SET" in prompt_of(gemma, "x")
    done = gemma("run", "--json", "--no-cache", "-t", "0", "-p", "two", "x")
    assert json.loads(done.stdout)["usage"]["completion_tokens"] == 2
    done = gemma("run", *FEW, "--json", "-p", "two", "-n", "1", "-s", "SAID", "x")
    assert json.loads(done.stdout)["usage"]["completion_tokens"] == 1
    assert "--system takes the place" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-p", "sumarise", "x"), "summarise"),
        (("-p", "translate", "--var", "too=x", "x"), "did you mean to?"),
        (("-p", "translate", "--var", "German", "x"), "NAME=VALUE"),
        (("-p", "translate", "--var", "to=a", "--var", "to=b", "x"), "twice"),
        (("--var", "to=x", "x"), "--var"),
        (("-p", "translate"), "prompt is empty"),
        (("-p", "translate", "--raw", "x"), "--raw"),
        (("-p", "translate", "--messages", "-"), "--messages"),
        (("-c", "--raw", "x"), "--continue"),
        (("-c", "--messages", "-"), "--messages"),
        (("--format", "html", "x"), "md or text"),
        (("--format", "text", "--json", "x"), "--json"),
        (("-x", "--json", "x"), "--extract"),
        (("-x", "--format", "text", "x"), "--extract"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    gemma: Gemma, arguments: tuple[str, ...], said: str
) -> None:
    done = gemma("run", *arguments)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert done.stdout == ""


def test_nothing_is_saved_unless_it_is_asked_for(gemma: Gemma, home: Env) -> None:
    database = Path(home["GEMMA_HOME"]) / "data" / "history.db"
    assert gemma("run", *FEW, "One").returncode == 0
    assert not database.exists()
    assert gemma("run", *FEW, "--save", "-s", "Be brief.", "Two").returncode == 0
    assert [(role, status) for role, status, _ in messages(home)] == [
        ("user", "complete"),
        ("assistant", "complete"),
    ]
    config = Path(home["GEMMA_HOME"]) / "config"
    config.mkdir(exist_ok=True)
    (config / "config.toml").write_text("save_runs = true\n")
    assert gemma("run", *FEW, "Three").returncode == 0
    assert gemma("run", *FEW, "--no-save", "Four").returncode == 0
    assert [text for role, _, text in messages(home) if role == "user"] == ["Two", "Three"]
    (config / "config.toml").write_text("save_runs = true\nhistory = false\n")
    assert gemma("run", *FEW, "Five").returncode == 0
    assert len(messages(home)) == 4


def test_continue_goes_on_with_the_last_chat(gemma: Gemma, home: Env) -> None:
    done = gemma("run", *FEW, "-c", "--json", "-s", "SYSTEM TEXT", "Say one")
    assert "there is no chat to continue" in done.stderr
    first = json.loads(done.stdout)
    text = prompt_of(gemma, "-c", "And two?")
    assert "SYSTEM TEXT" in text
    said = first["text"].strip()
    assert f"User: Say one\nAssistant: {said}\n\nUser: And two?\nAssistant:" in text
    assert len(messages(home)) == 2  # to show a prompt saves nothing
    assert gemma("run", *FEW, "-c", "--no-save", "And two?").returncode == 0
    assert len(messages(home)) == 2
    second = json.loads(gemma("run", *FEW, "-c", "--json", "And two?").stdout)
    assert second["chat"] == first["chat"]
    kept = messages(home)
    assert [role for role, _, _ in kept] == ["user", "assistant"] * 2
    assert kept[-1][2] == second["text"]
    listed = json.loads(gemma("history", "list", "--json").stdout)
    assert [(chat["id"], chat["turns"]) for chat in listed] == [(first["chat"], 2)]


def test_saved_messages_can_be_gone_on_with(gemma: Gemma, home: Env) -> None:
    talk = [
        {"role": "system", "content": "SYSTEM"},
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": "Two"},
        {"role": "user", "content": "Three"},
    ]
    assert gemma("run", *FEW, "--save", "--messages", "-", input=json.dumps(talk)).returncode == 0
    assert [text for _, _, text in messages(home)][:3] == ["One", "Two", "Three"]
    assert "SYSTEM" in prompt_of(gemma, "-c", "Four")


def test_a_prompt_that_does_not_fit_saves_nothing(gemma: Gemma, home: Env) -> None:
    assert gemma("run", *FEW, "-c", "One").returncode == 0
    done = gemma("run", "--ctx", "256", "-c", "word " * 300)
    assert done.returncode == 6
    assert len(messages(home)) == 2


@POSIX_ONLY
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_what_was_said_survives(home: Env, gemma: Gemma, how: signal.Signals) -> None:
    process = subprocess.Popen(
        [*program(), "run", "--save", "--no-cache", "--schema", ENDLESS, "Count"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=home,
    )
    assert process.stdout is not None
    seen = b""
    arrived: list[tuple[float, int]] = []
    while not arrived or arrived[-1][0] - arrived[0][0] < 3:
        seen += os.read(process.stdout.fileno(), 100)
        arrived.append((time.monotonic(), len(seen)))
    # Half a second is what may be lost; the machine may be busy.
    kept = max(size for at, size in arrived if at < arrived[-1][0] - 1.5)
    process.send_signal(how)
    process.communicate(timeout=60)
    gemma("history", "list")  # opening it settles what was left
    (question, answer) = messages(home)
    assert question == ("user", "complete", "Count")
    assert answer[1] == "cancelled"
    assert answer[2].startswith(seen[:kept].decode())


@POSIX_ONLY
def test_a_reader_that_leaves_keeps_what_it_saw(home: Env) -> None:
    head = ("bash", "-c", '"$@" | head -c 9; exit "${PIPESTATUS[0]}"', "-")
    done = subprocess.run(
        [*head, *program(), "run", "--save", "--no-cache", "--schema", ENDLESS, "Count"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=home,
        timeout=100,
        check=False,
    )
    kept = messages(home)
    assert kept[0][0] == "user"
    assert done.returncode == 141
    assert kept[1][1] == "cancelled"
    assert "Traceback" not in done.stderr
    assert kept[1][2].startswith(done.stdout)


@POSIX_ONLY
def test_xargs_runs_one_for_each_line(home: Env) -> None:
    command = (
        f"printf 'a\\nb\\n' | xargs -I{{}} {' '.join(program())} run --temp 0 --no-cache -n 3 "
        "'Say {}'"
    )
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=home,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 2


@POSIX_ONLY
@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
def test_make_keeps_no_half_made_file(home: Env, tmp_path: Path) -> None:
    gemma = " ".join(program())
    (tmp_path / "a.txt").write_text("One")
    (tmp_path / "b.txt").write_text("word " * 400)
    (tmp_path / "Makefile").write_text(
        f".DELETE_ON_ERROR:\n%.out: %.txt\n\t{gemma} run --ctx 256 --no-cache -t 0 -n 2 < $< > $@\n"
    )

    def make(target: str) -> int:
        return subprocess.run(
            ["make", "-s", "-C", str(tmp_path), target],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=home,
            timeout=100,
            check=False,
        ).returncode

    assert make("a.out") == 0
    assert (tmp_path / "a.out").read_text().strip()
    assert make("b.out") == 2  # make's own; gemma's was 6
    assert not (tmp_path / "b.out").exists()


@POSIX_ONLY
@pytest.mark.parametrize(
    ("redirection", "code", "said"),
    [
        ("<&-", 0, ""),
        (">&-", 1, "standard output is closed"),
        ("<&- >&-", 1, "closed"),
        ("2>&-", 0, ""),
    ],
)
def test_closed_streams(home: Env, redirection: str, code: int, said: str) -> None:
    done = subprocess.run(
        ["bash", "-c", f'"$@" {redirection}', "-", *program(), "run", "--save", *FEW, "Hi"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=home,
        timeout=100,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert "base model" not in done.stdout  # what stderr would have said
    assert bool(done.stdout.strip()) is (code == 0)


@POSIX_ONLY
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [["list"], ["--version"], ["--help"], ["prompts", "-h"]])
def test_an_output_that_takes_nothing(home: Env, arguments: list[str], unbuffered: str) -> None:
    env = home | {"PYTHONUNBUFFERED": unbuffered}
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as left, Path("/dev/full").open("wb") as full:
        for output, code, said in (
            (left, 141, ""),
            (full, 1, "gemma: cannot write the output: No space left on device\n"),
        ):
            done = subprocess.run(
                [*program(), *arguments], stdout=output, stderr=subprocess.PIPE, text=True, env=env
            )
            assert (done.returncode, done.stderr) == (code, said)


@POSIX_ONLY
@pytest.mark.parametrize("arguments", [["list"], ["history", "list"], ["--version"], ["--help"]])
def test_no_command_works_without_an_output(home: Env, arguments: list[str]) -> None:
    done = subprocess.run(
        ["bash", "-c", '"$@" >&-', "-", *program(), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=home,
        timeout=100,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "gemma: standard output is closed: there is nowhere to write to\n"


@POSIX_ONLY
def test_standard_input_by_the_name_of_a_dash(home: Env) -> None:
    for arguments, said in (
        ("run --messages - <&-", "that is closed"),
        ("run -f - Why? <<< text", "standard input is read by itself: gemma run PROMPT < FILE"),
    ):
        done = subprocess.run(
            ["bash", "-c", f'"$@" {arguments}', "-", *program()],
            capture_output=True,
            text=True,
            env=home,
        )
        assert done.returncode == 2
        assert said in done.stderr
