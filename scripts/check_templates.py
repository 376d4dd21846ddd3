"""Compare prompts with what published templates and other tokenizers make of the same talk.

    python scripts/check_templates.py DIR-or-FILE... [--count 300]

Give it folders with published chat templates (*.jinja) and GGUF files: hundreds
of generated conversations are rendered. Text is compared with the template's
own rendering by plain Jinja; token ids with llama.cpp's tokenizer over the
whole text, specials parsed, and with SentencePiece or Hugging Face's tokenizers
on the same vocabulary. A template is tried on each GGUF file of its generation.
Needs the `test` extra. Ends with 1 when anything differs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gemma_cli.engine.gemma4 import Gemma4Template
from gemma_cli.engine.protocol import Message, Segment
from gemma_cli.engine.template import JinjaTemplate
from gemma_cli.engine.tokens import Vocabulary
from gemma_cli.engine.turns import Template, TurnTemplate
from tests.conversations import conversations
from tests.gguf_reader import read_metadata
from tests.reference_tokenizers import Encode, reference
from tests.vocabularies import llama_ids, open_vocabulary

_BOS = "<bos>"


@dataclass(frozen=True, slots=True)
class Published:
    """A template that others wrote. generation: 4, or 3 for all before.

    embedded: it lies in a GGUF file, so that our own format never takes its place.
    """

    name: str
    source: str
    embedded: bool = False

    @property
    def generation(self) -> int:
        return 4 if "<|turn>" in self.source else 3

    def render(self, messages: Sequence[Message], thinking: bool | None) -> str:
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _refuse
        talk = [{"role": message.role, "content": message.text} for message in messages]
        more = {} if thinking is None else {"enable_thinking": thinking}
        return environment.from_string(self.source).render(
            messages=talk, bos_token=_BOS, add_generation_prompt=True, **more
        )

    def built_in(self) -> Template:
        """Our own format for files of that generation without a template."""
        if self.generation < 4:
            return TurnTemplate()
        closed = "<channel|>" in self.render([Message("user", "x")], False)
        return Gemma4Template(closes_thoughts=closed)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def compare_texts(published: Published, count: int) -> bool:
    """Print and judge how often our two renderings equal the template's own."""
    ours: dict[str, Template] = {"jinja": JinjaTemplate(published.source, bos=_BOS)}
    if not published.embedded:
        ours["built in"] = published.built_in()
    same: Counter[str] = Counter()
    differ: Counter[str] = Counter()
    refused = 0
    for messages in conversations(count):
        for thinking in (None, False, True):
            try:
                theirs = published.render(messages, thinking)
            except jinja2.TemplateError:
                refused += 1  # Gemma 1 and 2 take no system text; where it goes is ours to say
                continue
            for name, template in ours.items():
                text = _text(template.render(messages, thinking))
                equal = text.removeprefix(_BOS) == theirs.removeprefix(_BOS)
                (same if equal else differ)[name] += 1
                if not equal and differ[name] == 1:
                    _show(name, messages, text, theirs)
    for name in ours:
        total = same[name] + differ[name]
        print(f"{published.name}: {name}: {same[name]} of {total} texts equal", end="")
        print(f"; {refused} refused by the template itself" if refused else "")
    return not differ


def compare_tokens(path: Path, templates: Sequence[Template], count: int) -> bool:
    """Print and judge how often our ids equal those of two other tokenizers."""
    encode = reference(read_metadata(path))
    with open_vocabulary(path) as vocabulary:
        differ = sum(
            _differences(vocabulary, encode, template, count, path.name) for template in templates
        )
    return not differ


def _differences(
    vocabulary: Vocabulary, encode: Encode, template: Template, count: int, name: str
) -> int:
    judges = {
        "llama.cpp": lambda text: llama_ids(vocabulary, text),
        "reference": encode,
    }
    differ: Counter[str] = Counter()
    tokens = 0
    for index, messages in enumerate(conversations(count, first=10_000)):
        segments = template.render(messages, index % 2 == 0)
        text = _text(segments).removeprefix(_BOS)
        ours = list(vocabulary.encode(segments))[1:]
        tokens += len(ours)
        for judge, ids_of in judges.items():
            theirs = ids_of(text)
            if theirs != ours:
                differ[judge] += 1
                if differ[judge] == 1:
                    _show(judge, messages, str(ours), str(theirs))
    kind = type(template).__name__
    for judge in judges:
        equal = count - differ[judge]
        print(f"{name}: {kind}: {equal} of {count} prompts ({tokens:,} tokens) equal {judge}'s")
    return differ.total()


def _show(name: str, messages: Sequence[Message], ours: str, theirs: str) -> None:
    at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), 0)
    print(f"first difference ({name}) of {json.dumps([m.text[:80] for m in messages])}")
    print(f"  ours:   ...{ours[max(at - 40, 0) : at + 80]!r}")
    print(f"  theirs: ...{theirs[max(at - 40, 0) : at + 80]!r}")


def _text(segments: Sequence[Segment]) -> str:
    return "".join(segment.text for segment in segments)


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        yield from sorted(path.rglob("*gemma*")) if path.is_dir() else [path]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("paths", nargs="+", type=Path, metavar="DIR-or-FILE")
    parser.add_argument("--count", type=int, default=300, help="conversations for each comparison")
    args = parser.parse_args()
    files = list(_files(args.paths))
    published = [
        Published(path.name, path.read_text(encoding="utf-8"))
        for path in files
        if path.suffix == ".jinja"
    ]
    models: dict[Path, dict[str, Any]] = {
        path: read_metadata(path) for path in files if path.suffix == ".gguf"
    }
    for path, metadata in models.items():
        if template := metadata.get("tokenizer.chat_template"):
            published.append(Published(path.name, template, embedded=True))
    if not published and not models:
        parser.error("no *.jinja and no *.gguf file there")
    good = [compare_texts(each, args.count) for each in published]
    for path, metadata in models.items():
        four = metadata["tokenizer.ggml.model"] == "gemma4"
        templates: list[Template] = [
            JinjaTemplate(each.source, bos=_BOS)
            for each in published
            if (each.generation == 4) is four
        ]
        own: list[Template] = (
            [Gemma4Template(closes_thoughts=True), Gemma4Template(closes_thoughts=False)]
            if four
            else [TurnTemplate()]
        )
        good.append(compare_tokens(path, [*own, *templates], args.count))
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
