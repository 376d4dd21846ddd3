"""A prompt as a value: texts with variables, generation options, and how both are filled."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from gemma_cli.errors import UsageError
from gemma_cli.prompts.template import fill, variables
from gemma_cli.settings import Settings

TEXT = "text"  # the variable that stands for what a person asks or pipes


@dataclass(frozen=True, slots=True)
class Variable:
    """default None: it must be given."""

    name: str
    default: str | None


@dataclass(frozen=True, slots=True)
class Filled:
    """A prompt ready to be sent.

    system: "" for none. message: None where no text was given. options: only what
    the prompt sets (temp, max_tokens, stop ...) is not None.
    """

    system: str
    message: str | None
    options: Settings


@dataclass(frozen=True, slots=True)
class Prompt:
    """system, message: with variables. source: "built in" or the file's path."""

    name: str
    description: str
    system: str
    message: str
    options: Settings
    source: str

    @property
    def variables(self) -> list[Variable]:
        """Every variable but {{text}}, once, in order; the first default that it has counts."""
        found: dict[str, str | None] = {}
        for part in (self.system, self.message):
            for _, name, default in variables(part):
                if found.get(name) is None:
                    found[name] = default
        return [Variable(name, default) for name, default in found.items() if name != TEXT]

    def fill(self, values: Mapping[str, str], text: str | None = None) -> Filled:
        """The prompt with these values. Raises UsageError: one is missing, or is none of its.

        text: what {{text}} stands for; None for a prompt whose messages come
        later: then only the system text is made and its variables asked for.
        """
        given = self._values(values)
        self._check_given(self.system if text is None else self.system + self.message, given)
        message = None if text is None else fill(self.message, {**given, TEXT: text}).strip("\n")
        return Filled(fill(self.system, given).strip("\n"), message, self.options)

    def _values(self, values: Mapping[str, str]) -> dict[str, str]:
        known = {variable.name: variable.default for variable in self.variables}
        for name in values:
            if name not in known:
                raise UsageError(
                    f"the prompt {self.name} has no variable '{name}'", _near(name, known)
                )
        defaults = {name: default for name, default in known.items() if default is not None}
        # Of an empty value, perhaps of a shell's variable that is not set, the default holds:
        # else the paragraph that says what to do would go with it.
        given = {
            name: value for name, value in values.items() if value.strip() or known[name] == ""
        }
        return {**defaults, **given}

    def _check_given(self, used: str, given: Mapping[str, str]) -> None:
        names = {name for _, name, _ in variables(used)} - {TEXT}
        missing = [each.name for each in self.variables if each.name in names - given.keys()]
        if missing:
            rest = f" (and: {', '.join(missing[1:])})" if len(missing) > 1 else ""
            raise UsageError(
                f"the prompt {self.name} needs a value for '{missing[0]}'{rest}",
                " ".join(f"--var {each}=..." for each in missing),
            )


def _near(name: str, known: Mapping[str, object]) -> str:
    if not known:
        return "it has none"
    near = difflib.get_close_matches(name.lower(), known, n=1)
    return f"did you mean {near[0]}?" if near else f"it has: {', '.join(known)}"
