"""A Hub on the loopback: the real protocol on two ports, with faults on demand.

The content host is another origin than the Hub, as in the world. Every request
is recorded. A script of Behaviours is used up one a request; after it, all is well.
"""

from __future__ import annotations

import hashlib
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

_BLOCK = 64 * 1024


@dataclass(frozen=True)
class Behaviour:
    """What one response does wrong. Offsets count bytes of the file, not of the response.

    status, headers: answer this instead. drop_at: close there; reset: with a TCP
    reset. stall_at: stop there for stall_s. flip_at: one bit of that byte is wrong.
    ignore_range: the whole file, 200. wrong_range: another place than asked for.
    hold: instead of stall_s, stop until this is set. rate: bytes a second.
    hang_s: wait before answering. body: send this instead.
    """

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    drop_at: int | None = None
    reset: bool = False
    stall_at: int | None = None
    stall_s: float = 60.0
    hold: threading.Event | None = None
    flip_at: int | None = None
    ignore_range: bool = False
    wrong_range: bool = False
    rate: float | None = None
    hang_s: float = 0.0
    body: bytes | None = None


GOOD = Behaviour()


@cache
def sha256(data: bytes) -> str:
    """Once a file: hashing at every request would slow the server down."""
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Request:
    """host: "hub" or "content". at: time.monotonic()."""

    host: str
    method: str
    path: str
    headers: dict[str, str]
    at: float = 0.0


@dataclass
class Repo:
    files: dict[str, bytes]
    commit: str
    gated: str = ""  # "", or X-Error-Message of a refusal
    license: str = "gemma"
    listed: list[dict[str, Any]] | None = None
    tags: dict[str, str] = field(default_factory=dict)


class LoopbackHub:
    """endpoint: what HF_ENDPOINT must be. hub_script, content_script: see Behaviour."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.requests: list[Request] = []
        self.hub_script: list[Behaviour] = []
        self.content_script: list[Behaviour] = []
        self.content_always = GOOD
        self.hub_always = GOOD
        self.links = 0
        self.most_at_once = 0  # answers of the content host
        self.at_work = 0
        self.lock = threading.Lock()
        self._hub = _Server(self, "hub")
        self._content = _Server(self, "content")
        self.endpoint = f"http://127.0.0.1:{self._hub.server_port}"
        self.content_endpoint = f"http://127.0.0.1:{self._content.server_port}"

    def add(self, repo: str, files: dict[str, bytes], **facts: Any) -> Repo:
        commit = hashlib.sha1(repo.encode()).hexdigest()
        self.repos[repo] = Repo(files, facts.pop("commit", commit), **facts)
        return self.repos[repo]

    def environment(self) -> dict[str, str]:
        """What a subprocess needs to use this Hub and no other."""
        return {
            "HF_ENDPOINT": self.endpoint,
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }

    def gets(self) -> list[Request]:
        return [r for r in self.requests if r.host == "content" and r.method == "GET"]

    def next_behaviour(self, host: str) -> Behaviour:
        with self.lock:
            script = self.hub_script if host == "hub" else self.content_script
            if script:
                return script.pop(0)
            return self.hub_always if host == "hub" else self.content_always

    def content_goes_away(self) -> None:
        """Nobody listens at the content host's port any more; running answers go on."""
        self._content.shutdown()
        self._content.server_close()

    def content_comes_back(self) -> None:
        self._content = _Server(self, "content", self._content.server_port)

    def close(self) -> None:
        for server in (self._hub, self._content):
            server.shutdown()
            server.server_close()


@contextmanager
def loopback_hub() -> Iterator[LoopbackHub]:
    hub = LoopbackHub()
    try:
        yield hub
    finally:
        hub.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, hub: LoopbackHub, host: str, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.hub = hub
        self.host = host
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no error here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
        pass

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def _serve(self) -> None:
        hub, host = self.server.hub, self.server.host
        headers = {key.lower(): value for key, value in self.headers.items()}
        with hub.lock:
            request = Request(host, self.command, self.path, headers, time.monotonic())
            hub.requests.append(request)
        behaviour = hub.next_behaviour(host)
        if behaviour.hang_s:
            time.sleep(behaviour.hang_s)
        if behaviour.status is not None:
            self._answer(behaviour.status, behaviour.headers, behaviour.body or b"")
        elif host == "content":
            self._content(behaviour)
        else:
            self._hub_answer(behaviour)

    def _answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _error(self, status: int, code: str, message: str = "") -> None:
        self._answer(status, {"X-Error-Code": code, "X-Error-Message": message})

    def _hub_answer(self, behaviour: Behaviour) -> None:
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        is_api = parts[:2] == ["api", "models"]
        names = parts[2:] if is_api else parts
        name = "/".join(names[:2])
        repo = self.server.hub.repos.get(name)
        if repo is None:
            self._error(404 if "authorization" in self.headers else 401, "RepoNotFound")
            return
        revision = names[3] if len(names) > 3 else "main"
        commit = {"main": repo.commit, repo.commit: repo.commit, **repo.tags}.get(revision)
        if commit is None:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif is_api:
            self._listing(repo, name, commit, behaviour)
        elif repo.gated:
            self._error(403 if "authorization" in self.headers else 401, "GatedRepo", repo.gated)
        else:
            self._resolve(repo, name, "/".join(names[4:]), commit)

    def _listing(self, repo: Repo, name: str, commit: str, behaviour: Behaviour) -> None:
        siblings = repo.listed
        if siblings is None:
            siblings = [
                {
                    "rfilename": file,
                    "size": len(data),
                    "lfs": {"sha256": sha256(data), "size": len(data)},
                }
                for file, data in repo.files.items()
            ]
        answer = {
            "id": name,
            "sha": commit,
            "gated": "manual" if repo.gated else False,
            "cardData": {"license": repo.license},
            "siblings": siblings,
        }
        body = behaviour.body if behaviour.body is not None else json.dumps(answer).encode()
        self._answer(200, {"Content-Type": "application/json"}, body)

    def _resolve(self, repo: Repo, name: str, file: str, commit: str) -> None:
        data = repo.files.get(file)
        if data is None:
            self._error(404, "EntryNotFound")
            return
        with self.server.hub.lock:
            self.server.hub.links += 1
            link = self.server.hub.links
        headers = {
            "X-Repo-Commit": commit,
            "X-Linked-Etag": f'"{sha256(data)}"',
            "X-Linked-Size": str(len(data)),
            "Location": f"{self.server.hub.content_endpoint}/{name}/{file}?link={link}",
        }
        self._answer(302, headers)

    def _content(self, behaviour: Behaviour) -> None:
        url = urlsplit(self.path)
        names = unquote(url.path).strip("/").split("/")
        assert parse_qs(url.query).get("link"), "content without a link"
        data = self.server.hub.repos["/".join(names[:2])].files["/".join(names[2:])]
        start, status = 0, 200
        wanted = self.headers.get("Range", "")
        end = len(data)
        if wanted and not behaviour.ignore_range:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, status = int(first), 206
            end = min(end, int(last) + 1) if last else end
            if start >= len(data):
                self._answer(416, {"Content-Range": f"bytes */{len(data)}"})
                return
        if behaviour.wrong_range:
            start = max(0, start - 1)
        self.send_response(status)
        self.send_header("Content-Length", str(end - start))
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        hub = self.server.hub
        with hub.lock:
            hub.at_work += 1
            hub.most_at_once = max(hub.most_at_once, hub.at_work)
        try:
            self._send(data, start, end, behaviour)
        finally:
            with hub.lock:
                hub.at_work -= 1

    def _send(self, data: bytes, start: int, end: int, behaviour: Behaviour) -> None:
        if behaviour.flip_at is not None:
            flipped = bytearray(data)
            flipped[behaviour.flip_at] ^= 1
            data = bytes(flipped)
        position, began, stalled = start, time.monotonic(), False
        while position < end:
            stop = min(position + _BLOCK, end)
            for edge in (behaviour.drop_at, None if stalled else behaviour.stall_at):
                if edge is not None and position <= edge < stop:
                    stop = edge
            self.wfile.write(data[position:stop])
            position = stop
            if behaviour.stall_at is not None and position >= behaviour.stall_at and not stalled:
                stalled = True
                (behaviour.hold or threading.Event()).wait(behaviour.stall_s)
            if behaviour.drop_at is not None and position >= behaviour.drop_at:
                self._hang_up(behaviour.reset)
                return
            if behaviour.rate:
                ahead = (position - start) / behaviour.rate - (time.monotonic() - began)
                time.sleep(max(0.0, ahead))

    def _hang_up(self, reset: bool) -> None:
        self.wfile.flush()
        self.close_connection = True
        if reset:  # linger 0: the kernel answers with RST instead of FIN
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        else:
            self.connection.shutdown(socket.SHUT_RDWR)
