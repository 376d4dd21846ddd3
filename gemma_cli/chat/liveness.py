"""Is the program that began an answer still at work on it?"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path


def this_process() -> str:
    """A name for this process that no later process bears: host, pid, start."""
    return f"{socket.gethostname()}|{os.getpid()}|{_started(os.getpid())}"


def is_running(owner: str) -> bool:
    """Whether the process of that name lives. One on another host is taken to live."""
    host, _, rest = owner.partition("|")
    pid_text, _, started = rest.partition("|")
    if not pid_text.isdigit():
        return False
    if host != socket.gethostname():
        return True
    pid = int(pid_text)
    return _exists(pid) and started == _started(pid)


def _exists(pid: int) -> bool:
    if sys.platform == "win32":  # there os.kill(pid, 0) would end the process
        import ctypes

        query_limited_information, still_active = 0x1000, 259
        kernel = ctypes.windll.kernel32
        handle = kernel.OpenProcess(query_limited_information, False, pid)
        if not handle:
            return False
        code = ctypes.c_ulong()
        kernel.GetExitCodeProcess(handle, ctypes.byref(code))
        kernel.CloseHandle(handle)
        return code.value == still_active
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OverflowError:
        return False
    except PermissionError:
        pass
    return True


def _started(pid: int) -> str:
    """The kernel's start time of a process on Linux; elsewhere the pid must do."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return status.rpartition(")")[2].split()[19]
