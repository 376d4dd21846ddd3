"""`gemma` and `python -m gemma_cli`: errors to exit codes, in one place."""

from __future__ import annotations

import errno
import os
import sys

_OUTPUT_FAULTS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG}


def main() -> None:
    """Run the program and end the process with a documented exit code."""
    if not _has_output():
        sys.exit(1)
    only_version = sys.argv[1:] == ["--version"]  # before any import: 40 ms are the limit
    code = 0 if only_version else _run()
    try:
        if only_version:
            from gemma_cli import __version__

            print(f"gemma {__version__}")
        sys.stdout.flush()
    except BrokenPipeError:
        code = reader_gone()
    except OSError as error:
        code = _cannot_write(error)
    sys.exit(code)


def _has_output() -> bool:
    """Whether stdout is open; said if not. What else is closed (2>&-) is put to the null device.

    A closed stream's number would go to the next file opened: the history, for one,
    and what is printed would be written into it. And Python prints to stdout what was
    for a stderr that is none.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", encoding="utf-8")
    if sys.stdout is None:
        report("standard output is closed: there is nowhere to write to")
        return False
    return True


def _run() -> int:
    from gemma_cli.errors import ExitCode, GemmaError

    _use_utf8()
    try:
        from gemma_cli.cli import app  # here, so that Ctrl-C during the import is one too

        app(prog_name="gemma")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else ExitCode.FAILURE if end.code else 0
    except GemmaError as error:
        if _debugging():
            sys.excepthook(*sys.exc_info())
        report(error.message, error.hint)
        return error.exit_code
    except BrokenPipeError:
        return reader_gone()
    except KeyboardInterrupt:
        return ExitCode.CANCELLED
    except OSError as error:
        if error.errno not in _OUTPUT_FAULTS or error.filename is not None or _debugging():
            raise
        return _cannot_write(error)
    return 0


def report(message: str, hint: str | None = None) -> None:
    """One clear line on stderr, and the next step below it."""
    from gemma_cli.terminal.notices import say
    from gemma_cli.terminal.sanitize import clean

    say(message)
    if hint:
        print(f"  {clean(hint)}", file=sys.stderr)


def _cannot_write(error: OSError) -> int:
    """stdout takes no more (a full disk, a closed terminal): said once, and no later flush."""
    from gemma_cli.errors import ExitCode

    report(f"cannot write the output: {error.strerror or error}")
    reader_gone()
    return ExitCode.FAILURE


def reader_gone() -> int:
    """The reader of a pipe left (`| head`): end quietly, and let no later flush complain."""
    from gemma_cli.errors import ExitCode

    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    return ExitCode.READER_GONE


def _use_utf8() -> None:
    """Answers are UTF-8 whatever the locale; a character it cannot show never ends the program."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")


def _debugging() -> bool:
    return os.environ.get("GEMMA_DEBUG", "") not in ("", "0")


if __name__ == "__main__":
    main()
