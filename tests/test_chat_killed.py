"""`gemma chat` on the real model, killed with -9 while its answer streams."""

from __future__ import annotations

import os
import random
import subprocess
import time

import pytest

from tests.conftest import DEMO, Env, Gemma, program

pytestmark = pytest.mark.skipif(os.name == "nt", reason="SIGKILL is a POSIX signal")


def test_kill_9_while_the_real_model_answers(with_demo: Env, gemma: Gemma) -> None:
    """Every finished turn, the question, and the answer up to half a second before are there."""
    moments = random.Random(5)
    for number in range(1, 5):
        process = subprocess.Popen(
            [*program(), "chat", "-m", DEMO, "--temp", "1", "-n", "20", "--seed", str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=with_demo,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"What is the capital of Italy?\n/set max_tokens 2000\n")
        process.stdin.write(b"Count from one to a thousand, in words.\n")
        process.stdin.flush()
        process.stdout.readline()
        time.sleep(0.2 + moments.random())
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
        shown = gemma("history", "show", str(number))
        assert shown.returncode == 0, shown.stderr
        assert "What is the capital of Italy?" in shown.stdout
        assert shown.stdout.count("## Gemma") >= 1
        assert "Traceback" not in shown.stderr
    listed = gemma("history", "list")
    assert listed.stdout.count("capital of Italy") == 4
    assert "broken" not in listed.stderr
    last = gemma("chat", "--continue", "-n", "3", input="And now?\n")
    assert last.returncode == 0, last.stderr
