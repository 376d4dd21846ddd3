"""`gemma doctor`: what this machine and this build can do, and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from gemma_cli.errors import ExitCode
from gemma_cli.terminal.notices import say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gemma_cli.commands.checking.finding import Check, Finding
    from gemma_cli.commands.checking.program import BuildReport

_STATE, _CHECK = 7, 9  # columns


def doctor(
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look for what is broken or could be better, and say how to mend it. Changes nothing."""
    from gemma_cli.commands.checking import program

    report = program.ask_llama()
    found = []
    for finding in _examine(report):
        found.append(finding)
        if not json_output:
            _print(finding)
    if json_output:
        _print_json(found, report)
    problems = [finding for finding in found if finding.state == "problem"]
    notices = sum(finding.state == "notice" for finding in found)
    say(f"{_count(len(problems), 'problem')}, {_count(notices, 'notice')}")
    raise typer.Exit(ExitCode.FAILURE if problems else ExitCode.OK)


def _examine(report: BuildReport) -> Iterator[Finding]:
    """Every check, in the order in which one thing rests on another."""
    from gemma_cli.commands.checking import program, surroundings
    from gemma_cli.commands.checking.finding import findings

    checks: list[tuple[str, Check]] = [
        ("python", program.python),
        ("packages", program.packages),
        ("llama.cpp", lambda: program.llama(report)),
        ("gpu", lambda: program.graphics(report)),
        ("memory", program.memory),
        ("settings", surroundings.settings),
        ("folders", surroundings.folders),
        ("disk", surroundings.disk),
        ("kv cache", surroundings.snapshots),
        ("history", surroundings.history),
        ("hub", surroundings.hub),
        ("terminal", surroundings.terminal),
    ]
    if report.error is None:  # headers are read by llama.cpp's library
        checks.insert(-3, ("models", surroundings.models))
    for name, check in checks:
        yield from findings(name, check)


def _print(finding: Finding) -> None:
    """A pipe gets a line; a terminal what fits its width. A command stays in one piece."""
    from gemma_cli.terminal.sanitize import clean_line
    from gemma_cli.terminal.tables import hanging

    label = f"{finding.state:<{_STATE}}  {finding.check:<{_CHECK}}  "
    typer.echo(hanging(label, clean_line(finding.text)))
    if finding.fix is not None:
        typer.echo(f"{' ' * len(label)}{clean_line(finding.fix)}")


def _print_json(found: list[Finding], report: BuildReport) -> None:
    """Keys are only ever added."""
    import json
    from dataclasses import asdict

    from gemma_cli import __version__

    whole = {
        "version": __version__,
        "ok": all(finding.state != "problem" for finding in found),
        "findings": [asdict(finding) for finding in found],
        "llama_cpp": {
            "error": report.error,
            "library": report.library,
            "system_info": report.system_info,
            "backends": list(report.backends),
            "gpus": list(report.gpus),
        },
    }
    typer.echo(json.dumps(whole, ensure_ascii=False, indent=2))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
