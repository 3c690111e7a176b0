"""A hub on the loopback interface with the few addresses that a download needs."""

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """Serves directories as repositories.

    Attributes:
        repositories: id -> directory.
        gated: ids that need permission.
        requests: method and path of every request so far.
        url: address of the server.
    """

    def __init__(self, repositories: dict[str, Path]):
        self.repositories = repositories
        self.gated: set[str] = set()
        self.requests: list[str] = []
        self.url = ""

    def downloads(self) -> list[str]:
        """Returns the names of the files that were sent."""
        return [line.rpartition("/")[2] for line in self.requests if line.startswith("GET") and "/resolve/" in line]


@contextlib.contextmanager
def serve(hub: FakeHub) -> Iterator[FakeHub]:
    """Serves a hub while the body runs."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def answer(self) -> None:
            hub.requests.append(f"{self.command} {self.path}")
            parts = self.path.partition("?")[0].removeprefix("/api/models").strip("/").split("/")
            name, revision = "/".join(parts[:2]), parts[3] if len(parts) > 3 else "main"
            if name in hub.gated:
                return self.send(403, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": "ask for access"})
            if name not in hub.repositories:
                return self.send(401, b"", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "not found"})
            if revision not in ("main", COMMIT):
                return self.send(404, b"", {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "not found"})
            files = sorted(path for path in hub.repositories[name].iterdir() if path.is_file())
            if self.path.startswith("/api/") and "/tree/" in self.path:
                entries = [
                    {"type": "file", "path": path.name, "size": path.stat().st_size, "oid": digest(path)}
                    for path in files
                ]
                return self.send(200, json.dumps(entries).encode(), {"Content-Type": "application/json"})
            if self.path.startswith("/api/"):
                siblings = [{"rfilename": path.name} for path in files]
                body = {"id": name, "modelId": name, "sha": COMMIT, "siblings": siblings, "tags": [], "private": False}
                return self.send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})
            path = hub.repositories[name] / parts[4]
            if path not in files:
                return self.send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Error-Message": "not found"})
            return self.send(200, path.read_bytes(), {"ETag": f'"{digest(path)}"', "X-Repo-Commit": COMMIT})

        def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def digest(path: Path) -> str:
    """Returns a name of the contents of a file."""
    return hashlib.sha1(path.read_bytes()).hexdigest()
