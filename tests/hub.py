"""A stand-in for the Hugging Face Hub: an HTTP server on this machine with the endpoints that the tests use."""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading
import urllib.parse

import pytest
from huggingface_hub import constants

TOKEN = "hf_token_of_the_tests"
LFS = (".h5", ".keras")  # the hub stores these files with Git LFS


class Hub(http.server.ThreadingHTTPServer):
    """A hub of models with one branch, without Xet.

    Attributes:
        url: str, value of the environment variable HF_ENDPOINT.
        repos: dict, "USER/NAME" -> commits: dict, id -> files. The last commit is `main`. Files: dict, path -> bytes.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repos, self.large_files = {}, {}

    def last_commit(self, repo):
        """Return id and files of the last commit."""
        return list(self.repos[repo].items())[-1]

    def add_commit(self, repo, files):
        """Add a commit with files: dict, path -> bytes. Return its id, 40 hexadecimal digits."""
        commits = self.repos.setdefault(repo, {})
        oid = hashlib.sha1(f"{repo} {len(commits)}".encode()).hexdigest()
        commits[oid] = files
        return oid


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        for method, pattern, endpoint in _ENDPOINTS:
            match = re.fullmatch(pattern, path)
            if method == self.command and match:
                if method == "POST" and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                    return self.send(401, {"error": "Invalid username or password."})
                return endpoint(self, body, *match.groups())
        self.send(404, {"error": "Not found"})

    do_GET = do_HEAD = do_POST = do_PUT = answer

    def log_message(self, *arguments):
        """Print nothing."""

    def send(self, code, content, **headers):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def create(self, body):
        about = json.loads(body)
        repo = f"{about['organization']}/{about['name']}"
        exists = repo in self.server.repos
        if not exists:
            self.server.add_commit(repo, {})
        self.send(409 if exists else 200, {"url": f"{self.server.url}/{repo}"})

    def validate_yaml(self, body):
        self.send(200, {"errors": [], "warnings": []})

    def preupload(self, body, repo):
        files = [
            {"path": file["path"], "uploadMode": "lfs" if file["path"].endswith(LFS) else "regular"}
            for file in json.loads(body)["files"]
        ]
        self.send(200, {"files": [{**file, "shouldIgnore": False} for file in files]})

    def lfs_batch(self, body, repo):
        objects = [
            {**file, "actions": {"upload": {"href": f"{self.server.url}/lfs/{file['oid']}"}}}
            for file in json.loads(body)["objects"]
        ]
        self.send(200, {"transfer": "basic", "objects": objects})

    def lfs_upload(self, body, oid):
        correct = hashlib.sha256(body).hexdigest() == oid
        if correct:
            self.server.large_files[oid] = body
        self.send(200 if correct else 400, {})

    def commit(self, body, repo):
        files = dict(self.server.last_commit(repo)[1])
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.server.large_files[value["oid"]]
        oid = self.server.add_commit(repo, files)
        self.send(200, {"commitUrl": f"{self.server.url}/{repo}/commit/{oid}", "commitOid": oid})

    def info(self, body, repo):
        if repo in self.server.repos:
            return self.send(200, {"id": repo, "sha": self.server.last_commit(repo)[0]})
        self.send(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")

    def tree(self, body, repo, commit):
        self.send(200, [_about(path, data) for path, data in sorted(self.server.repos[repo][commit].items())])

    def resolve(self, body, repo, revision, path):
        commits = self.server.repos.get(repo, {"": {}})
        commit = list(commits)[-1] if revision == "main" else revision
        data = commits.get(commit, {}).get(path)
        if data is None:
            return self.send(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")
        about = _about(path, data)
        etag = about.get("lfs", about)["oid"]
        self.send(200, data, ETag=f'"{etag}"', X_Repo_Commit=commit)


def _about(path, data):
    """Return what the hub tells about a file: its name in Git, and in Git LFS."""
    about = {"type": "file", "path": path, "size": len(data)}
    about["oid"] = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    if path.endswith(LFS):
        about["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return about


_REPO = "([^/]+/[^/]+)"
_ENDPOINTS = [
    ("POST", "/api/repos/create", _Handler.create),
    ("POST", "/api/validate-yaml", _Handler.validate_yaml),
    ("POST", f"/api/models/{_REPO}/preupload/main", _Handler.preupload),
    ("POST", f"/{_REPO}.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("PUT", "/lfs/([0-9a-f]{64})", _Handler.lfs_upload),
    ("POST", f"/api/models/{_REPO}/commit/main", _Handler.commit),
    ("GET", f"/api/models/{_REPO}(?:/revision/main)?", _Handler.info),
    ("GET", f"/api/models/{_REPO}/tree/([0-9a-f]{{40}})", _Handler.tree),
    ("GET", f"/{_REPO}/resolve/(main|[0-9a-f]{{40}})/(.+)", _Handler.resolve),
    ("HEAD", f"/{_REPO}/resolve/(main|[0-9a-f]{{40}})/(.+)", _Handler.resolve),
]


@contextlib.contextmanager
def local_hub(folder):
    """Context manager: `huggingface_hub` uses a `Hub` on this machine instead of huggingface.co.

    The environment variables are those that a user would set. Since `huggingface_hub` has read them when it was
    imported, its constants are changed too.

    Args:
        folder: `pathlib.Path`, folder for the cache of downloaded files.

    Yields:
        `Hub`.
    """
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in (("HF_ENDPOINT", hub.url), ("HF_HOME", str(folder)), ("HF_TOKEN", TOKEN)):
                patch.setenv(name, value)
            patch.setenv("HF_HUB_DISABLE_XET", "1")
            patch.setattr(constants, "ENDPOINT", hub.url)
            patch.setattr(
                constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
            )
            patch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
            patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
            yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()
