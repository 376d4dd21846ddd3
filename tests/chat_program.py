"""`gemma chat` with tests/fake_engine.py in the model's place; everything else is real.

usage: python -m tests.chat_program '{"answers": [...], "load_s": 1.0, ...}' [ID to resume]
"""

from __future__ import annotations

import json
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from gemma_cli.chat.conversation import Conversation
from gemma_cli.chat.session import Session
from gemma_cli.commands.chat import open_journal, talk
from gemma_cli.engine.protocol import Piece, Sampling
from gemma_cli.errors import EngineError, GemmaError
from gemma_cli.terminal.writer import ChatWriter
from tests.fake_engine import FakeEngine


def _pieces(answer: Any) -> Any:
    """An answer in pieces may have thoughts, and may stand still until a file is there:
    {"thought": "Hm."}, {"until": "/a/path"}."""
    return answer if isinstance(answer, str) else [_piece(piece) for piece in answer]


def _piece(piece: Any) -> Any:
    if isinstance(piece, str):
        return piece
    return Path(piece["until"]) if "until" in piece else Piece(piece["thought"], True)


def main() -> int:
    options = json.loads(sys.argv[1])
    plain = options.pop("plain", False)
    options["answers"] = [_pieces(answer) for answer in options.get("answers", [])]
    if "failure" in options:
        options["failure"] = EngineError(options["failure"], "gemma verify")
    writer = ChatWriter(plain=plain)
    with closing(open_journal(writer)) as journal:
        conversation, saved = Conversation(), None
        if len(sys.argv) > 2:
            saved = journal.history().load(int(sys.argv[2]))
            conversation = saved.conversation
            journal.resume(saved.summary.id, conversation)
        journal.model = "fake:1b"
        session = Session(FakeEngine(**options), "fake:1b", conversation, journal, Sampling())
        return talk(session, journal, writer, saved, plain=plain)


if __name__ == "__main__":
    try:
        code = main()
    except GemmaError as error:
        print(f"gemma: {error.message}", file=sys.stderr)
        code = error.exit_code
    sys.exit(code)
