"""Every error that the program expects, and the exit code that each one ends with.

GemmaError                    1
├── UsageError                2   the command line, a setting or an option is wrong
├── ModelNotFoundError        3   no such model, or not installed
├── DownloadError             4   the download failed
│   └── VerificationError     4   the bytes are not the ones that were published
├── DoesNotFitError           5   this machine's memory is too small
├── PromptTooLongError        6   the prompt does not fit in the context window
├── Cancelled               130   the user said stop
├── ModelFileError            1   the file is no model, cut, or not readable
├── EngineError               1   llama.cpp failed while it worked
├── TemplateError             1   the model's chat template cannot be used
└── HistoryError              1   the history cannot be read or written
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """The documented exit codes of `gemma`; scripts depend on them."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    NO_MODEL = 3
    DOWNLOAD = 4
    MEMORY = 5
    CONTEXT = 6
    CANCELLED = 130
    READER_GONE = 141


class GemmaError(Exception):
    """An expected failure: one line for the user, and what to do next.

    message: what happened, without a final full stop, in the user's words.
    hint: the next step, with the command to type where there is one.
    """

    exit_code = ExitCode.FAILURE

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(GemmaError):
    exit_code = ExitCode.USAGE


class ModelNotFoundError(GemmaError):
    exit_code = ExitCode.NO_MODEL


class DownloadError(GemmaError):
    exit_code = ExitCode.DOWNLOAD


class VerificationError(DownloadError):
    pass


class DoesNotFitError(GemmaError):
    exit_code = ExitCode.MEMORY


class PromptTooLongError(GemmaError):
    exit_code = ExitCode.CONTEXT


class Cancelled(GemmaError):  # noqa: N818 - not an error: the user's wish
    exit_code = ExitCode.CANCELLED


class ModelFileError(GemmaError):
    pass


class EngineError(GemmaError):
    pass


class TemplateError(GemmaError):
    pass


class HistoryError(GemmaError):
    pass
