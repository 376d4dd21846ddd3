"""The Hub's requests: listings, file facts, content. The only importer of huggingface_hub.

Its session, token and settings are the library's own (proxies, certificates,
HF_ENDPOINT, HF_TOKEN, stored login); what a failure means is decided here,
because the library retries little and resumes nothing across runs.
"""

# ruff: noqa: E402 - the environment must be set before the library is imported

from __future__ import annotations

import json
import os
import re
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import quote, urljoin, urlsplit

# Read by the library when it is imported: no telemetry, no Xet (which starts
# from zero again and bypasses mirrors), no bars of its own.
for _variable in ("TELEMETRY", "XET", "PROGRESS_BARS", "UPDATE_CHECK"):
    os.environ[f"HF_HUB_DISABLE_{_variable}"] = "1"
# Names that other tools give to a corporate certificate bundle.
for _variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
    if os.environ.get(_variable):
        os.environ.setdefault("SSL_CERT_FILE", os.environ[_variable])

import httpx2
from huggingface_hub import constants, get_session, get_token

from gemma_cli import __version__
from gemma_cli.errors import DownloadError, GemmaError, ModelNotFoundError
from gemma_cli.models.events import Report, Waiting

_T = TypeVar("_T")

_CONNECT_S = 5.0
_MOST_REDIRECTS = 5
_LISTING_LIMIT = 32 << 20
_LONGEST_WAIT_S = 600.0
_COMMIT = re.compile(r"[0-9a-f]{40}")
_HASH = re.compile(r"[0-9a-f]{64}|[0-9a-f]{40}")
_RATE_LIMIT_SPENT = re.compile(r";\s*r\s*=\s*0\s*;\s*t\s*=\s*(\d+)")
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class TransientError(Exception):
    """A failure that may pass. fresh_link: the content's address must be asked for again.

    unreachable: no connection came about. retry_after: seconds the server asked for.
    """

    def __init__(
        self,
        reason: str,
        *,
        retry_after: float | None = None,
        fresh_link: bool = False,
        unreachable: bool = False,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after = retry_after
        self.fresh_link = fresh_link
        self.unreachable = unreachable


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file of a repository. size, sha256: None where the listing does not say."""

    name: str
    size: int | None
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Listing:
    repo: str
    commit: str
    gated: bool
    license: str
    files: tuple[ListedFile, ...]


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file at one commit. hash: 64 hexadecimal digits of sha256, or 40 of git's sha1.

    revision: as it was asked for (a branch, a tag, a commit). location: where
    the content is now; such links expire.
    """

    repo: str
    file: str
    revision: str
    commit: str
    hash: str
    size: int
    location: str


class Patience:
    """How often and how long to try again. Progress starts the count anew."""

    def __init__(self, file: str, report: Report, tries: int) -> None:
        self._file = file
        self._report = report
        self._tries = tries
        self._failures = 0
        self._start = time.monotonic()

    def progressed(self) -> None:
        self._failures = 0

    def wait(self, trouble: TransientError) -> bool:
        """Sleep before the next try; False when it is time to give up."""
        self._failures += 1
        elapsed = time.monotonic() - self._start
        # Nobody is there: say so within 15 seconds, not after all the tries.
        hopeless = trouble.unreachable and (elapsed > _CONNECT_S + 1 or self._failures >= 4)
        if self._failures >= self._tries or hopeless:
            return False
        seconds = min(0.5 * 2 ** (self._failures - 1), 30.0)
        if trouble.retry_after is not None:
            if trouble.retry_after > _LONGEST_WAIT_S:
                return False
            seconds = max(trouble.retry_after, 0.1)
        self._report(Waiting(self._file, trouble.reason, seconds))
        time.sleep(seconds)
        return True


def endpoint() -> str:
    """The Hub in use, by HF_ENDPOINT."""
    return str(constants.ENDPOINT)


def is_offline() -> bool:
    return bool(constants.is_offline_mode())


def list_repo(repo: str, revision: str | None, report: Report) -> Listing:
    """The files of a repository; ModelNotFoundError if there is no such repository or revision."""
    at = f"/revision/{quote(revision, safe='')}" if revision else ""
    url = f"{endpoint()}/api/models/{repo}{at}?blobs=true"
    asked = _Asked(repo, None, revision)
    body = _patiently(lambda: _read_json(url, asked), asked, report)
    return _parse_listing(body, repo)


def file_facts(repo: str, file: str, revision: str | None, report: Report) -> RemoteFile:
    """Size, hash, commit and link of one file."""
    asked = _Asked(repo, file, revision)
    return _patiently(lambda: _head(asked), asked, report)


def refreshed(remote: RemoteFile) -> RemoteFile:
    """The same file under a new link. TransientError if the Hub cannot say now."""
    return _head(_Asked(remote.repo, remote.file, remote.commit), remote.revision)


@dataclass(frozen=True, slots=True)
class _Asked:
    repo: str
    file: str | None
    revision: str | None

    def __str__(self) -> str:
        return f"{self.repo}/{self.file}" if self.file else self.repo


def _patiently(attempt: Callable[[], _T], asked: _Asked, report: Report) -> _T:
    """Call `attempt` until it answers or patience ends."""
    if is_offline():
        raise DownloadError(
            f"offline mode is on, and {asked} is not on this machine",
            "unset HF_HUB_OFFLINE to download it",
        )
    patience = Patience(str(asked), report, tries=5)
    while True:
        try:
            return attempt()
        except TransientError as trouble:
            if not patience.wait(trouble):
                raise unreachable(trouble) from trouble


def unreachable(trouble: TransientError) -> DownloadError:
    """The error for a Hub that does not answer, or answers with failures only."""
    if trouble.retry_after is not None:
        minutes = max(1, round(trouble.retry_after / 60))
        return DownloadError(
            f"the Hub at {endpoint()} asks to wait: {trouble.reason}",
            f"try again in {minutes} min; a token (hf auth login) allows more requests",
        )
    return DownloadError(
        f"the Hub at {endpoint()} cannot be used now: {trouble.reason}",
        "check the connection (a proxy: HTTPS_PROXY; a mirror: HF_ENDPOINT); models that are here"
        " work without it",
    )


def _head(asked: _Asked, revision: str | None = None) -> RemoteFile:
    assert asked.file is not None
    at = quote(asked.revision or "main", safe="")
    url = f"{endpoint()}/{asked.repo}/resolve/{at}/{quote(asked.file)}"
    with _send("HEAD", url, _hub_headers(), constants.HF_HUB_ETAG_TIMEOUT) as response:
        _raise_for_status(response, asked)
        headers = response.headers
        linked = headers.get("X-Linked-Etag") or headers.get("ETag") or ""
        digest = linked.removeprefix("W/").strip('"').lower()
        commit = headers.get("X-Repo-Commit", "")
        length = headers.get("X-Linked-Size") or (
            None if response.is_redirect else headers.get("Content-Length")
        )
        location = urljoin(str(response.url), headers.get("Location", ""))
    if not (_HASH.fullmatch(digest) and _COMMIT.fullmatch(commit) and length and length.isdigit()):
        raise DownloadError(
            f"{endpoint()} does not state the hash, commit and size of {asked}",
            "it may be no Hub: check HF_ENDPOINT. Nothing unverified is downloaded",
        )
    wanted = revision or asked.revision or "main"
    return RemoteFile(asked.repo, asked.file, wanted, commit, digest, int(length), location)


@contextmanager
def open_content(remote: RemoteFile, start: int) -> Iterator[tuple[int, Iterator[bytes]]]:
    """The file's bytes from `start` on: (where they really start, blocks).

    A server that ignores ranges starts at 0. TransientError for every failure
    that another try, or a fresh link, may pass.
    """
    at_hub = _origin(remote.location) == _origin(endpoint())
    # The token is for the Hub only, never for the host that serves the content.
    headers = _hub_headers() if at_hub else {"user-agent": _user_agent()}
    if start:
        headers["Range"] = f"bytes={start}-"
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with _send("GET", remote.location, headers, timeout, follow=True) as response:
        _check_content(response, remote, start)
        yield (start if response.status_code == 206 else 0), _blocks(response)


def _check_content(response: httpx2.Response, remote: RemoteFile, start: int) -> None:
    status = response.status_code
    if status == 206:
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if match is None or int(match[1]) != start or int(match[3]) != remote.size:
            raise TransientError("the server sent another range than asked for", fresh_link=True)
    elif status in (401, 403, 404, 410):
        raise TransientError(f"the link has expired (HTTP {status})", fresh_link=True)
    elif status != 200:
        # 416 too: what is here may be longer than the file is now.
        raise TransientError(
            f"HTTP {status} from {urlsplit(remote.location).hostname}",
            retry_after=_retry_after(response),
            fresh_link=status < 500 and status not in (408, 429),
        )


def _blocks(response: httpx2.Response) -> Iterator[bytes]:
    try:
        yield from response.iter_raw()
    except httpx2.TransportError as error:
        raise _transport_trouble(error) from error


def _read_json(url: str, asked: _Asked) -> Any:
    with _send("GET", url, _hub_headers(), constants.HF_HUB_ETAG_TIMEOUT) as response:
        _raise_for_status(response, asked)
        body = bytearray()
        for block in _blocks(response):
            body += block
            if len(body) > _LISTING_LIMIT:
                raise DownloadError(f"the listing of {asked} is larger than 32 MiB")
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise TransientError("the Hub's answer is no JSON") from error


@contextmanager
def _send(
    method: str, url: str, headers: dict[str, str], timeout: float, *, follow: bool = False
) -> Iterator[httpx2.Response]:
    """One request; redirects inside the same origin are followed, others only with `follow`.

    httpx drops the Authorization header itself when a redirect leaves the origin.
    """
    for _ in range(_MOST_REDIRECTS):
        response = _open(method, url, headers, timeout, follow=follow)
        try:
            target = urljoin(url, response.headers.get("Location", ""))
            if follow or not response.is_redirect or _origin(target) != _origin(url):
                yield response
                return
            url = target
        finally:
            response.close()
    raise DownloadError(f"{endpoint()} redirects in circles")


def _open(
    method: str, url: str, headers: dict[str, str], timeout: float, *, follow: bool
) -> httpx2.Response:
    client = get_session()
    limits = httpx2.Timeout(timeout, connect=_CONNECT_S)
    # Any compression would change the size and the hash of what arrives.
    headers = {**headers, "Accept-Encoding": "identity"}
    try:
        request = client.build_request(method, url, headers=headers, timeout=limits)
        return client.send(request, stream=True, follow_redirects=follow)
    except httpx2.TransportError as error:
        raise _transport_trouble(error) from error
    except (httpx2.InvalidURL, httpx2.TooManyRedirects) as error:
        raise DownloadError(f"{endpoint()} sent an address that cannot be used") from error


def _transport_trouble(error: httpx2.TransportError) -> TransientError | GemmaError:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return DownloadError(
                f"the certificate of the server is not trusted: {cause.verify_message}",
                "behind a company proxy: SSL_CERT_FILE=/path/to/its/certificates.pem",
            )
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx2.UnsupportedProtocol):
        return DownloadError(f"no address that can be used: {endpoint()}", "check HF_ENDPOINT")
    if isinstance(error, (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError)):
        reason = str(error) or "no connection within 5 seconds"
        return TransientError(reason, unreachable=True)
    if isinstance(error, httpx2.TimeoutException):
        return TransientError("the server stopped answering")
    return TransientError("the connection broke")


def _raise_for_status(response: httpx2.Response, asked: _Asked) -> None:
    status = response.status_code
    if status < 400:
        return
    if status in (408, 429) or status >= 500:
        reason = "too many requests (HTTP 429)" if status == 429 else f"HTTP {status}"
        raise TransientError(reason, retry_after=_retry_after(response))
    code = response.headers.get("X-Error-Code", "")
    message = response.headers.get("X-Error-Message", "")[:300]
    page = f"{endpoint()}/{asked.repo}"
    if code == "GatedRepo":
        raise _gated(message, asked, page)
    if code == "RevisionNotFound":
        raise ModelNotFoundError(
            f"{asked.repo} has no revision {asked.revision}", f"see {page}/commits/main"
        )
    if code == "EntryNotFound":
        raise ModelNotFoundError(f"{asked.repo} has no file {asked.file}", f"see {page}/tree/main")
    if "Invalid credentials" in message or (status == 401 and code != "RepoNotFound" and _token()):
        raise DownloadError("the Hub refuses the token", "log in again: hf auth login")
    if code == "RepoNotFound" or status in (401, 404):
        raise ModelNotFoundError(
            f"the Hub has no repository {asked.repo} (or it is private)",
            f"check its name at {page}; for a private one: hf auth login",
        )
    raise DownloadError(f"the Hub refused {asked}: {message or f'HTTP {status}'}", f"see {page}")


def _gated(message: str, asked: _Asked, page: str) -> DownloadError:
    lower = message.lower()
    if not _token():
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


def _retry_after(response: httpx2.Response) -> float | None:
    """Seconds the server asks to wait, by Retry-After (both forms) or the rate limit headers."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isdigit():
        return float(value)
    if value:
        try:
            return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
        except ValueError:
            return None
    # "api";r=0;t=55: nothing remains, the window ends in 55 seconds.
    spent = _RATE_LIMIT_SPENT.search(response.headers.get("RateLimit", ""))
    return float(spent[1]) if spent else None


def _parse_listing(body: Any, repo: str) -> Listing:
    try:
        commit, siblings = str(body["sha"]), list(body["siblings"])
        card = body.get("cardData") or {}
        files = tuple(file for entry in siblings if (file := _listed(entry)))
        gated, terms = bool(body.get("gated")), str(card.get("license", ""))
    except (KeyError, TypeError, AttributeError) as error:
        raise DownloadError(
            f"the listing of {repo} is not one", "it may be no Hub: check HF_ENDPOINT"
        ) from error
    if not _COMMIT.fullmatch(commit):
        raise DownloadError(f"the listing of {repo} names no commit")
    return Listing(repo, commit, gated, terms, files)


def _listed(entry: Any) -> ListedFile | None:
    """One file of a listing; None for a name that must not become a path here."""
    name = entry["rfilename"]
    if not isinstance(name, str) or not is_safe_name(name):
        return None
    lfs = entry.get("lfs") or {}
    size, sha256 = lfs.get("size", entry.get("size")), lfs.get("sha256")
    return ListedFile(
        name,
        size if isinstance(size, int) and size >= 0 else None,
        sha256 if isinstance(sha256, str) and re.fullmatch(r"[0-9a-f]{64}", sha256) else None,
    )


def is_safe_name(name: str) -> bool:
    """Whether a repository's file name is a plain relative path on every system."""
    parts = name.split("/")
    odd = not name.isprintable() or any(char in name for char in '\\:*?"<>|')
    return not odd and len(name) < 512 and all(p not in ("", ".", "..") for p in parts)


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, (parts.hostname or "").lower(), port


def _user_agent() -> str:
    return f"gemma-cli/{__version__}"


def _token() -> str | None:
    return None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()


def _hub_headers() -> dict[str, str]:
    token = _token()
    headers = {"user-agent": _user_agent()}
    if token:
        headers["authorization"] = f"Bearer {token}"
    return headers
