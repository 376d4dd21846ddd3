"""What a Hub's refusal means, and what to do about it. Pure: status and headers in, error out."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from gemma_cli.errors import DownloadError, GemmaError, ModelNotFoundError
from gemma_cli.models.listing import Asked
from gemma_cli.models.patience import TransientError

_RATE_LIMIT_SPENT = re.compile(r";\s*r\s*=\s*0\s*;\s*t\s*=\s*(\d+)")


def refusal(
    status: int, headers: Mapping[str, str], asked: Asked, endpoint: str, has_token: bool
) -> GemmaError | TransientError:
    """The error for an HTTP status from 400 on. headers: names in lower case."""
    if status in (408, 429) or status >= 500:
        reason = "too many requests (HTTP 429)" if status == 429 else f"HTTP {status}"
        return TransientError(reason, retry_after=retry_after(headers))
    code = headers.get("x-error-code", "")
    message = headers.get("x-error-message", "")[:300]
    page = f"{endpoint}/{asked.repo}"
    if code == "GatedRepo":
        return _gated(message, asked, page, has_token)
    if code == "RevisionNotFound":
        return ModelNotFoundError(
            f"{asked.repo} has no revision {asked.revision}", f"see {page}/commits/main"
        )
    if code == "EntryNotFound":
        return ModelNotFoundError(f"{asked.repo} has no file {asked.file}", f"see {page}/tree/main")
    if "Invalid credentials" in message or (status == 401 and code != "RepoNotFound" and has_token):
        return DownloadError("the Hub refuses the token", "log in again: hf auth login")
    if code == "RepoNotFound" or status in (401, 404):
        return ModelNotFoundError(
            f"the Hub has no repository {asked.repo} (or it is private)",
            f"check its name at {page}; for a private one: hf auth login",
        )
    return DownloadError(f"the Hub refused {asked}: {message or f'HTTP {status}'}", f"see {page}")


def _gated(message: str, asked: Asked, page: str, has_token: bool) -> DownloadError:
    lower = message.lower()
    if not has_token:
        return DownloadError(
            f"{asked.repo} asks for a login before its files are given out",
            f"accept its terms at {page}, then: hf auth login   (or set HF_TOKEN)",
        )
    if "reject" in lower:
        return DownloadError(
            f"the authors of {asked.repo} refused your request for access", f"see {page}"
        )
    if "await" in lower or "review" in lower or "pending" in lower:
        return DownloadError(
            f"your request for access to {asked.repo} waits for its authors", f"see {page}"
        )
    return DownloadError(
        f"the terms of {asked.repo} are not accepted yet by your account",
        f"accept them at {page}, then type the same command again",
    )


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds the server asks to wait: Retry-After in both forms, or a rate limit that is spent."""
    value = headers.get("retry-after", "").strip()
    if value.isdigit():
        return float(value)
    if value:
        try:
            return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
        except ValueError:
            return None
    # "api";r=0;t=55: nothing remains, the window ends in 55 seconds.
    spent = _RATE_LIMIT_SPENT.search(headers.get("ratelimit", ""))
    return float(spent[1]) if spent else None
