"""A stand-in of the Hugging Face Hub: the endpoints by which `huggingface_hub` uploads and fetches models."""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Repository:
    private: bool
    refs: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        content = "".join(f"{name} {hashlib.sha1(data).hexdigest()} " for name, data in sorted(files.items()))
        sha = hashlib.sha1(f"{len(self.commits)} {content}".encode()).hexdigest()
        self.commits[sha], self.refs[branch] = files, sha
        return sha


class FaultError(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, code: str, content: Any = None) -> None:
        self.status, self.code, self.content = status, code, content or {}


class Hub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def repository(self, name: str) -> Repository:
        if name not in self.repositories:
            raise FaultError(404, "RepoNotFound")
        return self.repositories[name]

    def files(self, name: str, revision: str) -> tuple[str, dict[str, bytes]]:
        repository = self.repository(name)
        sha = repository.refs.get(revision, revision)
        if sha not in repository.commits:
            raise FaultError(404, "RevisionNotFound")
        return sha, repository.commits[sha]


@contextmanager
def running() -> Iterator[Hub]:
    hub = Hub()
    thread = Thread(target=hub.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


def create(hub: Hub, body: bytes) -> Any:
    asked = json.loads(body)
    name = f"{asked['organization']}/{asked['name']}"
    about = {"url": f"{hub.url}/{name}", "name": name, "id": name}
    if name in hub.repositories:
        raise FaultError(409, "", about)
    hub.repositories[name] = Repository(asked.get("visibility") == "private" or asked.get("private", False))
    hub.repositories[name].commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"})
    return about


def branch(hub: Hub, body: bytes, name: str, revision: str) -> Any:
    repository = hub.repository(name)
    repository.refs.setdefault(revision, repository.refs["main"])
    return {}


def info(hub: Hub, body: bytes, name: str, revision: str = "main") -> Any:
    sha, files = hub.files(name, revision)
    return {"id": name, "sha": sha, "private": False, "siblings": [{"rfilename": file} for file in files]}


def tree(hub: Hub, body: bytes, name: str, revision: str) -> Any:
    _, files = hub.files(name, revision)
    oids = {file: hashlib.sha1(data).hexdigest() for file, data in files.items()}
    return [{"type": "file", "path": file, "size": len(data), "oid": oids[file]} for file, data in files.items()]


def preupload(hub: Hub, body: bytes, name: str, revision: str) -> Any:
    hub.repository(name)
    paths = [file["path"] for file in json.loads(body)["files"]]
    modes = {path: "lfs" if path.endswith((".safetensors", ".onnx")) else "regular" for path in paths}
    return {"files": [{"path": path, "uploadMode": modes[path], "shouldIgnore": False} for path in paths]}


def batch(hub: Hub, body: bytes, name: str) -> Any:
    objects = [
        {**asked, "actions": {"upload": {"href": f"{hub.url}/lfs/{asked['oid']}"}}}
        for asked in json.loads(body)["objects"]
    ]
    return {"transfer": "basic", "objects": objects}


def blob(hub: Hub, body: bytes, oid: str) -> Any:
    assert hashlib.sha256(body).hexdigest() == oid
    hub.blobs[oid] = body
    return {}


def commit(hub: Hub, body: bytes, name: str, revision: str) -> Any:
    files = dict(hub.files(name, revision)[1])
    for line in body.splitlines():
        entry = json.loads(line)
        value = entry["value"]
        if entry["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif entry["key"] == "lfsFile":
            files[value["path"]] = hub.blobs[value["oid"]]
        elif entry["key"] == "deletedFile":
            del files[value["path"]]
    sha = hub.repository(name).commit(revision, files)
    return {"commitUrl": f"{hub.url}/{name}/commit/{sha}", "commitOid": sha, "pullRequestUrl": None}


def resolve(hub: Hub, body: bytes, name: str, revision: str, file: str) -> Any:
    sha, files = hub.files(name, revision)
    if file not in files:
        raise FaultError(404, "EntryNotFound")
    return sha, files[file]


_NAME, _REVISION = r"([\w.-]+/[\w.-]+)", r"([\w.-]+)"


def page(hub: Hub, body: bytes) -> Any:
    return {"errors": [], "warnings": []}


ROUTES: list[tuple[str, str, Callable[..., Any]]] = [
    ("POST", "/api/repos/create", create),
    ("POST", "/api/validate-yaml", page),
    ("POST", f"/api/models/{_NAME}/branch/{_REVISION}", branch),
    ("GET", f"/api/models/{_NAME}/revision/{_REVISION}", info),
    ("GET", f"/api/models/{_NAME}/tree/{_REVISION}", tree),
    ("GET", f"/api/models/{_NAME}", info),
    ("POST", f"/api/models/{_NAME}/preupload/{_REVISION}", preupload),
    ("POST", f"/{_NAME}\\.git/info/lfs/objects/batch", batch),
    ("PUT", "/lfs/(.*)", blob),
    ("POST", f"/api/models/{_NAME}/commit/{_REVISION}", commit),
    ("GET", f"/{_NAME}/resolve/{_REVISION}/(.*)", resolve),
]


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else an answer waits until its head has been acknowledged

    def found(self, method: str, path: str, body: bytes) -> Any:
        for kind, pattern, act in ROUTES:
            parts = re.fullmatch(pattern, path)
            if kind == method and parts:
                return act(self.server, body, *parts.groups())
        raise FaultError(501, path)

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path, method = unquote(urlsplit(self.path).path), "GET" if self.command == "HEAD" else self.command
        self.server.requests.append(f"{self.command} {path}")
        headers = {"Content-Type": "application/json"}
        try:
            found = self.found(method, path, body)
            status, content = 200, b""
            if isinstance(found, tuple):
                sha, content = found
                headers |= {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": sha}
            else:
                content = json.dumps(found).encode()
        except FaultError as fault:
            status, content = fault.status, json.dumps(fault.content).encode()
            headers["X-Error-Code"] = fault.code
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_POST = do_PUT = answer  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Be silent."""
