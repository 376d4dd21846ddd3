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
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
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

from gemma_cli import __version__
from gemma_cli.errors import DownloadError, GemmaError, UsageError
from gemma_cli.models.events import Report
from gemma_cli.models.listing import COMMIT, Asked, Listing, RemoteFile, parse_listing
from gemma_cli.models.patience import Patience, TransientError
from gemma_cli.models.refusals import refusal, retry_after

try:
    from huggingface_hub import constants, get_session, get_token
except ValueError as error:  # HF_ENDPOINT=http://[::1, HF_HUB_DOWNLOAD_TIMEOUT=soon
    raise UsageError(
        f"a setting of the Hub cannot be used: {error}",
        "check HF_ENDPOINT and the other variables whose names begin with HF_",
    ) from error

_T = TypeVar("_T")
_CONNECT_S = 5.0
_TRIES = 5
# Nobody is there: that is said within 15 seconds, the last connect included.
_UNREACHABLE_S = 3.0
_MOST_REDIRECTS = 5
_LISTING_LIMIT = 32 << 20
_HASH = re.compile(r"[0-9a-f]{64}|[0-9a-f]{40}")
_ERRNO = re.compile(r"^\[Errno -?\d+\] ")
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


def endpoint() -> str:
    """The Hub in use, by HF_ENDPOINT."""
    return str(constants.ENDPOINT)


def is_offline() -> bool:
    return bool(constants.is_offline_mode())


def greet(seconds: float) -> str:
    """Ask the Hub for nothing, and the token's owner if there is a token: what it says.

    TransientError if nobody answers in time; DownloadError if it refuses the token.
    """
    headers = _hub_headers()
    if "authorization" not in headers:
        with closing(_open("HEAD", f"{endpoint()}/", headers, seconds, follow=True)) as response:
            if response.status_code >= 500:
                raise TransientError(f"HTTP {response.status_code}")
        return f"{endpoint()} answers; no token is set, which only gated models need"
    whoami = f"{endpoint()}/api/whoami-v2"
    with closing(_open("GET", whoami, headers, seconds, follow=True)) as response:
        if response.status_code >= 500:
            raise TransientError(f"HTTP {response.status_code}")
        if response.status_code in (401, 403):
            raise DownloadError(
                f"{endpoint()} refuses the token that is set",
                "set HF_TOKEN anew, or log in again: hf auth login",
            )
    return f"{endpoint()} answers, and takes the token"


def list_repo(repo: str, revision: str | None, report: Report) -> Listing:
    """The files of a repository; ModelNotFoundError if there is no such repository or revision."""
    at = f"/revision/{quote(revision, safe='')}" if revision else ""
    url = f"{endpoint()}/api/models/{repo}{at}?blobs=true"
    asked = Asked(repo, None, revision)
    body = _patiently(lambda: _read_json(url, asked), asked, report)
    return parse_listing(body, repo)


def file_facts(repo: str, file: str, revision: str | None, report: Report) -> RemoteFile:
    """Size, hash, commit and link of one file."""
    asked = Asked(repo, file, revision)
    return _patiently(lambda: _head(asked), asked, report)


def refreshed(remote: RemoteFile) -> RemoteFile:
    """The same file under a new link. TransientError if the Hub cannot say now."""
    return _head(Asked(remote.repo, remote.file, remote.commit), remote.revision)


def _patiently(attempt: Callable[[], _T], asked: Asked, report: Report) -> _T:
    """Call `attempt` until it answers or patience ends."""
    if is_offline():
        raise DownloadError(
            f"offline mode is on, and {asked} is not on this machine",
            "unset HF_HUB_OFFLINE to download it",
        )
    patience = Patience(str(asked), report, _TRIES, _UNREACHABLE_S)
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


def _head(asked: Asked, revision: str | None = None) -> RemoteFile:
    assert asked.file is not None
    at = quote(asked.revision or "main", safe="")
    url = f"{endpoint()}/{asked.repo}/resolve/{at}/{quote(asked.file)}"
    with _send("HEAD", url, _hub_headers(), constants.HF_HUB_ETAG_TIMEOUT) as response:
        _check_status(response, asked)
        headers = response.headers
        linked = headers.get("X-Linked-Etag") or headers.get("ETag") or ""
        digest = linked.removeprefix("W/").strip('"').lower()
        commit = headers.get("X-Repo-Commit", "")
        length = headers.get("X-Linked-Size") or (
            None if response.is_redirect else headers.get("Content-Length")
        )
        location = urljoin(str(response.url), headers.get("Location", ""))
    if not (_HASH.fullmatch(digest) and COMMIT.fullmatch(commit) and length and length.isdigit()):
        raise DownloadError(
            f"{endpoint()} does not state the hash, commit and size of {asked}",
            "it may be no Hub: check HF_ENDPOINT. Nothing unverified is downloaded",
        )
    wanted = revision or asked.revision or "main"
    return RemoteFile(asked.repo, asked.file, wanted, commit, digest, int(length), location)


@contextmanager
def open_content(
    remote: RemoteFile, start: int, end: int | None = None
) -> Iterator[tuple[int, Iterator[bytes]]]:
    """The file's bytes from `start` to `end` (its end): (where they really start, blocks).

    A server that ignores ranges starts at 0. TransientError for every failure
    that another try, or a fresh link, may pass.
    """
    at_hub = _origin(remote.location) == _origin(endpoint())
    # The token is for the Hub only, never for the host that serves the content.
    headers = _hub_headers() if at_hub else {"user-agent": _user_agent()}
    if start or end is not None:
        headers["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
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
            retry_after=retry_after(response.headers),
            fresh_link=status < 500 and status not in (408, 429),
        )


def _blocks(response: httpx2.Response) -> Iterator[bytes]:
    try:
        yield from response.iter_raw()
    except httpx2.TransportError as error:
        raise _transport_trouble(error) from error


def _read_json(url: str, asked: Asked) -> Any:
    with _send("GET", url, _hub_headers(), constants.HF_HUB_ETAG_TIMEOUT) as response:
        _check_status(response, asked)
        body = bytearray()
        for block in _blocks(response):
            body += block
            if len(body) > _LISTING_LIMIT:
                raise DownloadError(f"the listing of {asked} is larger than 32 MiB")
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise DownloadError(
            f"the listing of {asked} is not one", "it may be no Hub: check HF_ENDPOINT"
        ) from error


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
    client = _session()
    limits = httpx2.Timeout(timeout, connect=min(timeout, _CONNECT_S))
    # Any compression would change the size and the hash of what arrives.
    headers = {**headers, "Accept-Encoding": "identity"}
    try:
        request = client.build_request(method, url, headers=headers, timeout=limits)
        return client.send(request, stream=True, follow_redirects=follow)
    except httpx2.TransportError as error:
        raise _transport_trouble(error) from error
    except (httpx2.InvalidURL, httpx2.TooManyRedirects) as error:
        raise DownloadError(f"{endpoint()} sent an address that cannot be used") from error


def _session() -> httpx2.Client:
    """The library's own, made with the proxy and the certificates that the environment names."""
    try:
        return get_session()
    except (OSError, ValueError) as error:
        raise DownloadError(
            f"the certificates or the proxy that are set cannot be used: {error}",
            "check SSL_CERT_FILE, SSL_CERT_DIR, HTTPS_PROXY and ALL_PROXY",
        ) from error


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
        reason = _ERRNO.sub("", str(error)) or "no connection within 5 seconds"
        return TransientError(reason, unreachable=True)
    if isinstance(error, httpx2.TimeoutException):
        return TransientError("the server stopped answering")
    return TransientError("the connection broke")


def _check_status(response: httpx2.Response, asked: Asked) -> None:
    status, headers = response.status_code, response.headers
    if status >= 400:
        raise refusal(status, headers, asked, endpoint(), has_token=bool(_token()))


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, (parts.hostname or "").lower(), port


def _user_agent() -> str:
    return f"gemma-cli/{__version__}"


def _token() -> str | None:
    if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN:
        return None
    try:
        token = get_token()
    except OSError:  # a stored login that cannot be read is none
        return None
    if token is not None and not (token.isascii() and token.isprintable()):
        raise DownloadError(
            "the token holds characters that no token has",
            "set HF_TOKEN anew, or log in again: hf auth login",
        )
    return token


def _hub_headers() -> dict[str, str]:
    token = _token()
    headers = {"user-agent": _user_agent()}
    if token:
        headers["authorization"] = f"Bearer {token}"
    return headers
