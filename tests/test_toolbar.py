"""The line below the prompt: what it shows where there is little room."""

from __future__ import annotations

import pytest
from prompt_toolkit.utils import get_cwidth

from gemma_cli.terminal.toolbar import Gauge, toolbar

LONG = "some-model-with-a-very-long-name-of-its-own-Q4_K_M.gguf"


def shown(gauge: Gauge, width: int) -> str:
    return "".join(text for _, text in toolbar(gauge, width))


@pytest.mark.parametrize("width", range(1, 100))
def test_it_never_wraps(width: int) -> None:
    for gauge in (Gauge(LONG, 1.0, 32768, 31000, 88.5), Gauge(LONG, 0.4), Gauge("日本語" * 9)):
        assert get_cwidth(shown(gauge, width)) <= width


def test_the_speed_is_whole_or_left_out() -> None:
    assert shown(Gauge("gemma3:270m-pt", 1.0, 32768, 53, 34.3), 40).endswith(" / 32,768")
    assert shown(Gauge("gemma3:270m-pt", 1.0, 32768, 53, 34.3), 60).endswith(" · 34.3 tokens/s")
    assert "tokens/s" not in shown(Gauge("gemma3:270m-pt", 1.0, 32768, 53, 0.0), 80)


def test_the_figures_come_before_the_end_of_a_long_name() -> None:
    gauge = Gauge(LONG, 1.0, 32768, 31000, 88.5)
    text = shown(gauge, 60)
    assert text.startswith(" some-model-with")
    assert text.endswith("… · context 31,000 / 32,768 · 88.5 tokens/s")
    assert len(text) == 60
    assert shown(gauge, 120).startswith(f" {LONG} · context")
