"""Completion as a shell does it: the scripts in real shells, without a Python at the Tab."""

from __future__ import annotations

import os
import select
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import typer

from gemma_cli.cli import app
from gemma_cli.commands.shells import SCRIPTS
from gemma_cli.commands.surface import Command, commands
from tests.conftest import Env, Gemma

COMMANDS = commands(typer.main.get_command(app))
INSTALLED = ["gemma3:270m-pt:q4_k_m", "gemma3:4b:q4_k_m", "hf:owner/repo:q8_0"]


def needs(shell: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(shell) is None, reason=f"no {shell} here")


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("completion")
    for shell, script in SCRIPTS.items():
        (folder / shell).write_text(script(COMMANDS))
    (folder / "_gemma").write_text(SCRIPTS["zsh"](COMMANDS))
    return folder


@pytest.fixture
def models(home: Env) -> Env:
    """Some models here, as gemma remembers them, and a prompt of one's own."""
    file = Path(home["GEMMA_HOME"]) / "cache" / "completion" / "models"
    file.parent.mkdir(parents=True)
    file.write_text("".join(f"{name}\n" for name in INSTALLED))
    own = Path(home["GEMMA_HOME"]) / "config" / "prompts"
    own.mkdir(parents=True)
    (own / "my-own.md").write_text("{{text}}")
    return home


def in_bash(scripts: Path, env: Env, line: str) -> list[str]:
    """What bash would put in the place of the last word (its part after a colon, as bash does)."""
    code = (
        f"source {scripts / 'bash'}; COMP_LINE={shlex.quote(line)}; COMP_POINT=${{#COMP_LINE}}; "
        'PATH=; _gemma; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", code],
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stderr == ""
    return done.stdout.split()


def in_fish(scripts: Path, env: Env, line: str) -> list[str]:
    code = f"source {scripts / 'fish'}; complete -C {shlex.quote(line)}"
    done = subprocess.run(
        ["fish", "--no-config", "-c", code],
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stderr == ""
    return [each.split("\t")[0] for each in done.stdout.splitlines()]


@needs("bash")
@pytest.mark.parametrize("command", COMMANDS, ids=lambda each: " ".join(each.path))
def test_bash_knows_every_option_of_every_command(
    scripts: Path, models: Env, command: Command
) -> None:
    line = " ".join(("gemma", *command.path))
    names = {name for option in command.options for name in option.names}
    assert set(in_bash(scripts, models, f"{line} -")) == names
    if command.commands:
        assert in_bash(scripts, models, f"{line} ") == list(command.commands)


@needs("fish")
@pytest.mark.parametrize("command", COMMANDS, ids=lambda each: " ".join(each.path))
def test_fish_knows_every_option_of_every_command(
    scripts: Path, models: Env, command: Command
) -> None:
    line = " ".join(("gemma", *command.path))
    names = {name for option in command.options for name in option.names}
    assert set(in_fish(scripts, models, f"{line} --")) == {n for n in names if n[:2] == "--"}
    if command.commands:
        assert set(in_fish(scripts, models, f"{line} ")) == set(command.commands)


CASES = [
    ("gemma ru", ["run"]),
    ("gemma history ex", ["export"]),
    ("gemma run --kv-type ", ["f16", "q8_0", "q4_0"]),
    ("gemma run --format t", ["text"]),
    ("gemma history export --format js", ["json", "jsonl"]),
    ("gemma run -p my", ["my-own"]),
    ("gemma run --prompt su", ["summarise"]),
    ("gemma prompts edit tr", ["translate"]),
    ("gemma config set top", ["top_k", "top_p"]),
    ("gemma completion z", ["zsh"]),
    ("gemma config set context_full se", []),
    ("gemma run -m hf", ["hf:owner/repo:q8_0"]),
    ("gemma chat gemma3:4b:q", ["gemma3:4b:q4_k_m"]),
    ("gemma run --seed ", []),
    ("gemma run -m hf -t 0 -p my", ["my-own"]),
]


@needs("fish")
@pytest.mark.parametrize(("line", "offered"), CASES)
def test_fish_offers_values(scripts: Path, models: Env, line: str, offered: list[str]) -> None:
    assert sorted(in_fish(scripts, models, line)) == sorted(offered)


@needs("bash")
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        *[
            (line, [each.rpartition(":")[2] for each in offered])
            if ":" in line.split()[-1]
            else (line, offered)
            for line, offered in CASES
        ],
        ("gemma run --model=hf:owner/repo:", ["q8_0"]),
        ("gemma run --format=", ["md", "text"]),
        ("gemma pull gemma3n:", ["e2b", "e4b"]),
        ("gemma run 'what is' -p my", ["my-own"]),
    ],
)
def test_bash_offers_values(scripts: Path, models: Env, line: str, offered: list[str]) -> None:
    assert in_bash(scripts, models, line) == offered


@needs("bash")
def test_names_in_the_file_are_data(scripts: Path, models: Env, tmp_path: Path) -> None:
    file = Path(models["GEMMA_HOME"]) / "cache" / "completion" / "models"
    file.write_text(f"x$(touch {tmp_path}/made)\nx`touch {tmp_path}/made`\nx*\n")
    in_bash(scripts, models, "gemma run -m x")
    assert not (tmp_path / "made").exists()


@needs("bash")
def test_without_any_file_of_ours_nothing_fails(scripts: Path, home: Env) -> None:
    assert in_bash(scripts, home, "gemma run -m ") == []
    assert "summarise" in in_bash(scripts, home, "gemma run -p ")


@needs("zsh")
def test_zsh_reads_its_script(scripts: Path, models: Env) -> None:
    subprocess.run(["zsh", "-n", str(scripts / "zsh")], check=True, env=models)


@pytest.mark.parametrize("shell", SCRIPTS)
def test_the_command_prints_the_script(gemma: Gemma, scripts: Path, shell: str) -> None:
    assert gemma("completion", shell).stdout == (scripts / shell).read_text()


def test_an_unknown_shell_is_named(gemma: Gemma) -> None:
    done = gemma("completion", "tcsh")
    assert done.returncode == 2
    assert "bash, zsh, fish" in done.stderr


def test_gemma_list_writes_what_a_tab_offers(gemma: Gemma, with_demo: Env) -> None:
    assert gemma("list").returncode == 0
    file = Path(with_demo["GEMMA_HOME"]) / "cache" / "completion" / "models"
    assert file.read_text() == "gemma3:270m-pt:q4_k_m\n"


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_every_option_stands_in_the_other_scripts(scripts: Path, shell: str) -> None:
    text = (scripts / shell).read_text()
    for command in COMMANDS:
        for option in command.options:
            for name in option.names:
                long = f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}"
                assert (long if shell == "fish" else name) in text, (command.path, name)


def typed_in_zsh(scripts: Path, env: Env, line: str) -> str:
    """The command line after a Tab in an interactive zsh."""
    import pty

    start = f"fpath=({scripts} $fpath); autoload -U compinit; compinit -u -D; PS1='> '"
    done = 'bindkey "^X" send-break; line-is() { print -r -- "<$BUFFER>" }; zle -N line-is'
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe("zsh", ["zsh", "-f", "-i"], env)
    try:
        os.write(terminal, f'{start}; {done}; bindkey "^G" line-is; print REA""DY\n'.encode())
        _read_until(terminal, b"READY")
        os.write(terminal, f"{line}\t".encode() + b"\x07")
        seen = _read_until(terminal, b">\r")
        return seen.rpartition(b"<")[2].partition(b">\r")[0].decode()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)


def _read_until(terminal: int, wanted: bytes) -> bytes:
    seen = b""
    end = time.monotonic() + 90
    while wanted not in seen:
        assert time.monotonic() < end, seen
        if select.select([terminal], [], [], 1)[0]:
            seen += os.read(terminal, 4096)
    return seen


@needs("zsh")
@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("gemma chec", "gemma chec"),
        ("gemma comp", "gemma completion "),
        ("gemma completion z", "gemma completion zsh "),
        ("gemma history exp", "gemma history export "),
        ("gemma history export --format sh", "gemma history export --format sharegpt "),
        ("gemma run -m hf", "gemma run -m hf:owner/repo:q8_0 "),
        ("gemma run --prompt my", "gemma run --prompt my-own "),
        ("gemma config get seed", "gemma config get seed "),
        ("gemma run --show-p", "gemma run --show-prompt "),
        ("gemma pull gemma1.1:7", "gemma pull gemma1.1:7b "),
        ("gemma run -m -def", "gemma run -m -def"),
        ("gemma run -p -def", "gemma run -p -def"),
        ("gemma pull -J", "gemma pull -J"),
    ],
)
def test_zsh_completes(scripts: Path, models: Env, line: str, completed: str) -> None:
    assert typed_in_zsh(scripts, models, line) == completed
