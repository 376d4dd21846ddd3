"""Commands that walk in the tree of the conversation and make branches in it."""

from __future__ import annotations

from gemma_cli.chat.attaching import named_by_changed
from gemma_cli.chat.branches import branches, excerpt, here, picture, place
from gemma_cli.chat.commands.registry import command
from gemma_cli.chat.conversation import Turn
from gemma_cli.chat.interface import Talk
from gemma_cli.chat.session import Session
from gemma_cli.errors import UsageError


def question(session: Session, typed: str, example: str) -> Turn:
    """The question of that number on the path, the last one if none is typed. UsageError."""
    asked = session.conversation.questions()
    if not asked:
        raise UsageError("there is no turn in this conversation yet")
    if not typed:
        return asked[-1]
    if not typed.isdecimal() or not 0 < int(typed) <= len(asked):
        known = "turn 1 alone is" if len(asked) == 1 else f"turns 1 to {len(asked)} are"
        raise UsageError(f"there is no turn '{typed}' here: {known}", f"for example: {example}")
    return asked[int(typed) - 1]


def numbers(session: Session, before: list[str]) -> list[tuple[str, str]]:
    """The turns of this path, for completion."""
    if before:
        return []
    asked = session.conversation.questions()
    return [(str(number), excerpt(turn.text)) for number, turn in enumerate(asked, start=1)]


def _places(session: Session, before: list[str]) -> list[tuple[str, str]]:
    if before:
        return []
    found = branches(session.conversation)
    ends = [(branch.letter, excerpt(branch.turns[-1].text)) for branch in found]
    return [*numbers(session, []), *ends]


def _move(session: Session, to: int | None) -> None:
    session.conversation.go_to(to)
    session.journal.save(session.conversation)


@command(
    "/regen", argument="[N]", summary="answer the last question, or turn N, again",
    choices=numbers,
)  # fmt: skip
def regen(talk: Talk, argument: str) -> None:
    """The earlier answer stays, on a branch of its own (/branches). A new seed is drawn unless
    one was set."""
    session = talk.session
    asked = question(session, argument, "/regen 1")
    before = session.conversation.leaf
    talk.say(_same_again(session, asked))
    session.conversation.go_to(asked.id)
    talk.answer(otherwise=before)


def _same_again(session: Session, asked: Turn) -> str:
    """Why this model may answer as it did before, if it did."""
    origins = [each.origin for each in session.conversation.children(asked.id)]
    if not any(origin and origin.model_sha == session.model_sha for origin in origins):
        return ""
    if session.sampling.seed is not None:
        return f"The seed is set to {session.sampling.seed}: the answer may be the same."
    return "The temperature is 0: the answer may be the same." if session.sampling.greedy else ""


@command("/undo", argument="[N]", summary="go back to before the last turn, or the last N")
def undo(talk: Talk, argument: str) -> str:
    """Nothing is removed: the turns stay on their branch."""
    session = talk.session
    asked = session.conversation.questions()
    if not asked:
        raise UsageError("there is nothing to undo")
    count = argument or "1"
    if not count.isdecimal() or not 0 < int(count) <= len(asked):
        known = "1 alone" if len(asked) == 1 else f"a number from 1 to {len(asked)}"
        raise UsageError(f"/undo takes {known} here, not '{argument}'")
    came_from = here(session.conversation)
    first = asked[-int(count)]
    _move(session, first.parent)
    return f"Back before turn {len(asked) - int(count) + 1}. To come back: /goto {came_from}"


@command(
    "/edit", argument="[N [TEXT]]", summary="change the last question, or turn N",
    choices=lambda session, before: [*numbers(session, before), ("summary", "")],
)  # fmt: skip
def edit(talk: Talk, argument: str) -> None:
    """The question stands at the prompt to be changed; what it was stays on its branch. With a
    text that is asked at once. /edit summary changes what stands for the oldest turns."""
    session = talk.session
    number, _, text = argument.partition(" ")
    if number == "summary":
        _edit_summary(talk, text.strip())
        return
    asked = question(session, number, "/edit 1")

    def ask_again(changed: str) -> None:
        documents = named_by_changed(talk, asked, changed)
        before = session.conversation.leaf
        session.conversation.go_to(asked.parent)
        talk.ask(changed, documents)
        if session.conversation.leaf == asked.parent:  # it was refused
            _move(session, before)

    if text.strip():
        ask_again(text.strip())
    else:
        talk.prefill(asked.text, ask_again)


def _edit_summary(talk: Talk, text: str) -> None:
    session = talk.session
    summary = session.conversation.summary()
    if summary is None or summary.parent is None:
        raise UsageError("there is no summary here", "let one be written: /compact")
    stands_for = summary.parent

    def keep(changed: str) -> None:
        session.conversation.summarise(stands_for, changed)
        session.journal.save(session.conversation)
        talk.say("The summary is changed; it holds from the next message on.")

    if text:
        keep(text)
    else:
        talk.prefill(summary.text, keep)


@command("/branch", argument="[N]", summary="talk on from turn N, on a new branch", choices=numbers)
def branch(talk: Talk, argument: str) -> str:
    """The new branch begins with your next message; what followed turn N stays. Alone: from the
    turn before the last one."""
    session = talk.session
    number = argument or str(max(len(session.conversation.questions()) - 1, 0))
    if number != "0" or session.conversation.leaf is None:
        question(session, number, "/branch 1")
    came_from = here(session.conversation)
    _move(session, place(session.conversation, number))
    where = "from the beginning" if number == "0" else f"after turn {number}"
    return f"Your next message begins a branch {where}. To come back: /goto {came_from}"


@command("/branches", summary="a picture of all that was said")
def branches_(talk: Talk, _argument: str) -> str:
    """● marks the present path. A letter names a branch, a number a turn: b3."""
    return picture(talk.session.conversation, words=talk.session.plain)


@command(
    "/goto", argument="PLACE", summary="go to turn 3, to branch b, or to turn b3", choices=_places
)
def goto(talk: Talk, argument: str) -> str:
    """A number is a turn of this path; 0 is the beginning. Letters are those of /branches."""
    session = talk.session
    if not argument:
        raise UsageError("/goto takes a place", "what there is: /branches")
    _move(session, place(session.conversation, argument))
    leaf = session.conversation.leaf
    if leaf is None:
        return "You are at the beginning."
    last = session.conversation[leaf]
    return f"You are at {here(session.conversation)}: {excerpt(last.text)}"
