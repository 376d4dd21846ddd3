"""`gemma run`: one prompt in, one answer out, nothing else on stdout."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from gemma_cli.commands import options
from gemma_cli.errors import ExitCode
from gemma_cli.terminal.notices import say

_LONG_TEXT = 4096  # characters; it may have been evaluated before


@options.takes_generation_options
def run(
    *,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PROMPT]...", help="The question. Standard input comes before it."),
    ] = None,
    model: options.ModelOption = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            "-p",
            "--prompt",
            metavar="NAME",
            help="Ask by a kept prompt (gemma prompts list), such as summarise.",
        ),
    ] = None,
    variables: Annotated[
        list[str] | None,
        typer.Option("--var", metavar="NAME=VALUE", help="A variable of that prompt (repeatable)."),
    ] = None,
    resume_last: Annotated[
        bool,
        typer.Option(
            "-c", "--continue", help="Go on with the last chat; the answer is saved there."
        ),
    ] = False,
    save: Annotated[
        bool | None,
        typer.Option(
            "--save/--no-save",
            help="Save question and answer in the history (setting save_runs).",
        ),
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue the text as it is: no chat template.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object: text, usage, timings.")
    ] = False,
    extract: Annotated[
        bool,
        typer.Option(
            "-x",
            "--extract",
            help="Only the first fenced code block; exit code 1 if the answer has none.",
        ),
    ] = False,
    form: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="md|text",
            help="md: as the model wrote it. text: its Markdown taken off.",
        ),
    ] = "md",
    schema: Annotated[
        str | None,
        typer.Option(
            "--schema", metavar="FILE|JSON", help="Answer in JSON that satisfies this JSON Schema."
        ),
    ] = None,
    json_object: Annotated[
        bool, typer.Option("--json-object", help="Answer with one JSON object, whatever is in it.")
    ] = False,
    cache: Annotated[
        bool,
        typer.Option(
            "--cache/--no-cache",
            help="Keep a long evaluated prompt on disk, for another question about it.",
        ),
    ] = True,
    stats: Annotated[bool, typer.Option("--stats", help="Tokens and speed on stderr.")] = False,
    files: Annotated[
        list[Path] | None,
        typer.Option(
            "-f",
            "--file",
            help="Put a file before the prompt: text, PDF, Word, HTML, a folder (repeatable).",
        ),
    ] = None,
    messages: Annotated[
        str | None,
        typer.Option(
            "--messages",
            metavar="FILE",
            help="An OpenAI-style list of messages in place of a prompt; - for standard input.",
        ),
    ] = None,
    show_prompt: Annotated[
        bool,
        typer.Option("--show-prompt", help="Print the exact prompt as JSON; generate nothing."),
    ] = False,
    generation: options.GenerationOptions,
) -> None:
    """Answer one prompt. The answer, and only the answer, goes to stdout."""
    from contextlib import closing

    from gemma_cli.commands.loading import opening
    from gemma_cli.commands.running.answering import Answering, print_prompt
    from gemma_cli.commands.running.asked import Wanted, read_asked
    from gemma_cli.commands.running.output import output_for
    from gemma_cli.commands.running.question import schema_from
    from gemma_cli.settings import load_settings

    settings = load_settings()
    if save is None:
        save = resume_last or bool(settings.save_runs and settings.history is not False)
    wanted = Wanted(words or [], files or [], messages, raw, prompt, variables or [], resume_last)
    template = wanted.template()
    asked = (generation if template is None else generation.over(template.options)).over(settings)
    opening.wishes_from(asked)  # nonsense is refused before anything is read
    answer_schema = schema_from(schema, json_object=json_object)
    output = None if show_prompt else output_for(form, extract=extract, as_json=as_json)
    system = settings.system
    with closing(read_asked(wanted, template, generation.system, system, save=save)) as question:
        chosen = opening.choose_model_for(model, question.model, settings)
        sampling = replace(opening.sampling_from(chosen.sampling, asked), schema=answer_schema)
        if output is None:
            print_prompt(chosen, question.messages, question.raw, thinking=asked.think)
            return
        notice = None if raw else opening.base_model_notice(chosen)
        if notice:
            say(f"{notice} --raw continues your text as it is.")
        snapshots = None
        if cache:
            long = question.length > _LONG_TEXT
            snapshots = opening.snapshot_place(chosen, settings, expected=long)
        engine = opening.start_engine(chosen, asked, snapshots)
        try:
            answering = Answering(engine, output, stats=stats, thinking=asked.think)
            code = answering.answer(chosen.installed, question, sampling, as_json=as_json)
            if code == ExitCode.OK:
                opening.keep_state(engine, answering.reusable_tokens)
        except BaseException:
            engine.close()  # a thread inside llama.cpp must not outlive the interpreter
            raise
    # Idle now: the system frees its memory faster than llama.cpp does.
    raise typer.Exit(code)
