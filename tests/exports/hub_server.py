"""The Hugging Face Hub as its client meets it, on this machine: the API and, on a port of its own, the large storage.

    with hub_server() as hub:
        hub.users["hf_…"] = User("ivan")
        HF_ENDPOINT=hub.url …
        hub.fail("POST", "/commit/", status=503)

Refuses what the Hub refuses: strangers, names of others, a commit over another state, weights that never arrived.
"""

import base64
import hashlib
import json
import math
import re
import secrets
import socket
import struct
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

LARGE = re.compile(r"\.(?:safetensors|gguf|bin|model|onnx|pt|zip|parquet)$")  # as in a new repository's .gitattributes
ATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n*.gguf filter=lfs diff=lfs merge=lfs -text\n"


@dataclass
class User:
    name: str
    role: str = "write"
    orgs: tuple[str, ...] = ()


@dataclass
class Fault:
    """What happens to the next requests of a kind."""

    method: str
    path: str
    times: int
    status: int = 0
    """0: the connection is cut."""
    headers: dict = field(default_factory=dict)
    error: str = "Service Unavailable"
    after: int | str = 0
    """Bytes of the body that are read before the connection is cut, or `done`: when all is done, before the answer."""
    sends: int | None = None
    """Bytes of the answer that go out before the connection is cut."""
    call: object = None
    """Called before the request is carried out, instead of any harm."""


@dataclass
class Repo:
    private: bool
    commits: list = field(default_factory=list)
    """(commit, {path: git's hash, or (sha256, size) of a file in the large storage})"""

    @property
    def head(self):
        return self.commits[-1][0]

    @property
    def files(self):
        return self.commits[-1][1]

    def commit(self, files) -> str:
        self.commits.append((secrets.token_hex(20), dict(files)))
        return self.head


class Hub:
    def __init__(self):
        self.users: dict[str, User] = {}
        self.repos: dict[str, Repo] = {}
        self.small: dict[str, bytes] = {}
        self.large: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str, int]] = []
        """(method, path, bytes of the body) of everything asked."""
        self.part_size = 10**9
        self.xet: Path | None = None
        """Folder of a chunk store, which the client's own library fills and reads; without it there is LFS alone."""
        self.force_private = False
        self.given: list[tuple[str, int]] = []
        """(path, bytes of the body) of everything answered."""
        self.slept: list[float] = []
        """Seconds that the client waited, where a test has put this in the place of time.sleep."""
        self.lock = threading.RLock()

    def fail(self, method, path, *, times=1, **how):
        self.faults.append(Fault(method, path, times, **how))

    def sent(self, method, path) -> int:
        """How many such requests there were."""
        return sum(known == method and bool(re.search(path, where)) for known, where, _ in self.requests)

    def sent_bytes(self, path) -> int:
        """Bytes that went out in answer to such paths."""
        return sum(size for where, size in self.given if re.search(path, where))

    def stored_bytes(self) -> int:
        """Bytes sent to the large storage."""
        return sum(size for method, path, size in self.requests if method == "PUT" and "/store/" in path)

    def put(self, name, files: dict[str, bytes], private=False) -> Repo:
        """A repository with these files, as somebody else would have made it."""
        repo = self.repos.setdefault(name, Repo(private))
        repo.commit(
            {**(repo.files if repo.commits else {}), **{path: self.keep(path, data) for path, data in files.items()}}
        )
        return repo

    def keep(self, path, data: bytes):
        if LARGE.search(path):
            sha = hashlib.sha256(data).hexdigest()
            self.large[sha] = data
            return sha, len(data)
        git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        self.small[git] = data
        return git

    def xet_hash(self, sha) -> str | None:
        """Xet's own name of a file that has arrived in the chunk store, from the store's list of files."""
        wanted = struct.pack("<4Q", *struct.unpack(">4Q", bytes.fromhex(sha)))
        for file in self.xet.glob("**/shards/*.mdb") if self.xet else ():
            shard, at = file.read_bytes(), 48
            while (name := shard[at : at + 32]) != b"\xff" * 32:
                flags, entries = struct.unpack("<II", shard[at + 32 : at + 40])
                at += 48 * (1 + entries * (1 + (flags >> 31 & 1)))
                if flags >> 30 & 1 and shard[at : at + 32] == wanted:
                    return "".join(f"{word:016x}" for word in struct.unpack("<4Q", name))
                at += 48 * (flags >> 30 & 1)
        return None

    def read(self, entry) -> bytes:
        return self.large[entry[0]] if isinstance(entry, tuple) else self.small[entry]

    def files(self, name) -> dict[str, bytes]:
        return {path: self.read(entry) for path, entry in self.repos[name].files.items() if path != ".gitattributes"}


class RefusalError(Exception):
    def __init__(self, status, error, code=None):
        self.status, self.error, self.code = status, error, code


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_):
        pass

    def handle_any(self):
        path = unquote(urlsplit(self.path).path)
        fault = self.take_fault(path)
        if fault and not fault.status and not fault.call and fault.sends is None and fault.after != "done":
            self.rfile.read(min(int(self.headers.get("content-length", 0)), fault.after))
            return self.cut()
        body = self.body()
        self.hub.requests.append((self.command, path, len(body)))
        if fault and fault.status:
            return self.answer(fault.status, {"error": fault.error}, {"X-Error-Message": fault.error, **fault.headers})
        if fault and fault.call:
            fault.call()
        try:
            with self.hub.lock:
                status, content, headers = self.route(path, body)
        except RefusalError as refusal:
            headers = {"X-Error-Message": refusal.error} | ({"X-Error-Code": refusal.code} if refusal.code else {})
            status, content = refusal.status, {"error": refusal.error}
        if fault and fault.after == "done":
            return self.cut()
        return self.answer(status, content, headers, fault.sends if fault else None)

    do_GET = do_HEAD = do_POST = do_PUT = handle_any  # noqa: N815

    def take_fault(self, path):
        with self.hub.lock:
            for fault in self.hub.faults:
                if fault.times and fault.method == self.command and re.search(fault.path, path):
                    fault.times -= 1
                    return fault
        return None

    def body(self) -> bytes:
        if self.headers.get("transfer-encoding") == "chunked":
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def answer(self, status, content=b"", headers=(), sends=None):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        headers = {"Content-Length": str(len(data)), "X-Request-Id": secrets.token_hex(4), **dict(headers)}
        if not isinstance(content, bytes):
            headers.setdefault("Content-Type", "application/json")
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[:sends])
            self.hub.given.append((urlsplit(self.path).path, len(data[:sends])))
        if sends is not None:
            self.cut()

    def cut(self):
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)


class Storage(Handler):
    """Takes and gives bytes to whoever has a signed address; knows no tokens."""

    url = ""

    def route(self, path, body):
        query = parse_qs(urlsplit(self.path).query)
        if "authorization" in self.headers:
            raise RefusalError(400, "Only one auth mechanism allowed")
        if query.get("X-Amz-Signature") != ["signed"]:
            raise RefusalError(403, "SignatureDoesNotMatch")
        sha = path.split("/")[2]
        if self.command == "PUT" and "part" in query:
            self.hub.parts.setdefault(sha, {})[int(query["part"][0])] = body
            return 200, b"", {"ETag": f'"{hashlib.md5(body).hexdigest()}"'}
        if self.command == "PUT":
            if hashlib.sha256(body).hexdigest() != sha:
                raise RefusalError(400, "BadDigest")
            self.hub.large[sha] = body
            return 200, b"", {"ETag": f'"{hashlib.md5(body).hexdigest()}"'}
        data = self.hub.large[sha]
        if asked := re.match(r"bytes=(\d+)-", self.headers.get("range", "")):
            start = int(asked[1])
            return 206, data[start:], {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
        return 200, data, {"ETag": f'"{sha}"'}


class Api(Handler):
    storage: type[Storage]
    url = ""

    def route(self, path, body):
        routes = {
            ("GET", r"/api/whoami-v2"): self.whoami,
            ("POST", r"/api/repos/create"): self.create,
            ("POST", r"/api/validate-yaml"): self.validate_yaml,
            ("POST", r"/api/complete/([0-9a-f]{64})"): self.complete,
            ("GET", r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?"): self.model,
            ("GET", r"/api/models/([^/]+/[^/]+)/tree/([^/]+)"): self.tree,
            ("POST", r"/api/models/([^/]+/[^/]+)/preupload/main"): self.preupload,
            ("POST", r"/api/models/([^/]+/[^/]+)/commit/main"): self.commit,
            ("POST", r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch"): self.batch,
            ("POST", r"/([^/]+/[^/]+)\.git/info/lfs/objects/verify"): self.verify,
            ("GET", r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)"): self.resolve,
            ("GET", r"/api/models/([^/]+/[^/]+)/xet-(write|read)-token/([^/]+)"): self.xet_token,
        }
        method = "GET" if self.command == "HEAD" else self.command
        for (known, pattern), handle in routes.items():
            if known == method and (match := re.fullmatch(pattern, path)):
                return handle(body, *match.groups())
        raise RefusalError(404, "Sorry, we can't find the page you are looking for.")

    def user(self, *, needed=True) -> User | None:
        token = self.headers.get("authorization", "").removeprefix("Bearer ")
        user = self.hub.users.get(token)
        if user is None and (token or needed):
            raise RefusalError(401, "Invalid credentials in Authorization header")
        return user

    def may_write(self, owner) -> None:
        user = self.user()
        if user.role == "read" or owner not in (user.name, *user.orgs):
            raise RefusalError(403, f'You don\'t have the rights to create a model under the namespace "{owner}"')

    def repo(self, name) -> Repo:
        user, repo = self.user(needed=False), self.hub.repos.get(name)
        seen = repo and (not repo.private or (user and name.split("/")[0] in (user.name, *user.orgs)))
        if not seen:
            raise RefusalError(404 if user else 401, "Repository not found", "RepoNotFound")
        return repo

    def at(self, name, revision) -> tuple[str, dict]:
        repo = self.repo(name)
        for commit, files in reversed(repo.commits):
            if revision in (None, "main", commit):
                return commit, files
        raise RefusalError(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def whoami(self, _):
        user = self.user()
        orgs = [{"name": name, "type": "org"} for name in user.orgs]
        auth = {"type": "access_token", "accessToken": {"displayName": "t", "role": user.role}}
        return 200, {"type": "user", "name": user.name, "orgs": orgs, "auth": auth}, {}

    def create(self, body):
        asked = json.loads(body)
        owner = asked["organization"] or self.user().name
        self.may_write(owner)
        name = f"{owner}/{asked['name']}"
        url = f"{self.url}/{name}"
        if name in self.hub.repos:
            return 409, {"error": "You already created this model repo", "url": url}, {}
        repo = self.hub.repos[name] = Repo(asked.get("visibility") == "private" or self.hub.force_private)
        repo.commit({".gitattributes": self.hub.keep(".gitattributes", ATTRIBUTES)})
        return 200, {"url": url, "name": name, "id": secrets.token_hex(12)}, {}

    def validate_yaml(self, body):
        self.user()
        errors = card_errors(json.loads(body)["content"])
        return (400 if errors else 200), {"errors": [{"message": e} for e in errors], "warnings": []}, {}

    def model(self, _, name, revision):
        commit, files = self.at(name, revision)
        readme = self.hub.read(files["README.md"]).decode() if "README.md" in files else ""
        blobs = "blobs" in parse_qs(urlsplit(self.path).query)
        found = {
            "_id": "1",
            "id": name,
            "modelId": name,
            "author": name.split("/")[0],
            "sha": commit,
            "private": self.hub.repos[name].private,
            "gated": False,
            "disabled": False,
            "tags": [],
            "siblings": [{"rfilename": path} | (self.blob(files[path]) if blobs else {}) for path in sorted(files)],
        }
        return 200, found | ({"cardData": front_matter(readme)} if front_matter(readme) else {}), {}

    def blob(self, entry):
        if not isinstance(entry, tuple):
            return {"blobId": entry, "size": len(self.hub.small[entry])}
        lfs = {"sha256": entry[0], "size": entry[1], "pointerSize": 134}
        return {"blobId": hashlib.sha1(entry[0].encode()).hexdigest(), "size": entry[1], "lfs": lfs}

    def tree(self, _, name, revision):
        def line(path, entry):
            blob = self.blob(entry)
            lfs = {"lfs": {"oid": entry[0], "size": entry[1], "pointerSize": 134}} if "lfs" in blob else {}
            return {"type": "file", "path": path, "oid": blob["blobId"], "size": blob["size"], **lfs}

        _, files = self.at(name, revision)
        return 200, [line(path, entry) for path, entry in sorted(files.items())], {}

    def preupload(self, body, name):
        repo = self.repo(name)
        self.may_write(name.split("/")[0])

        def mode(file):
            assert len(base64.b64decode(file["sample"])) <= 512
            known = repo.files.get(file["path"])
            large = bool(LARGE.search(file["path"])) or file["size"] > 10 * 2**20
            oid = {} if known is None else {"oid": known[0] if isinstance(known, tuple) else known}
            return {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, **oid}

        return 200, {"files": [mode(file) for file in json.loads(body)["files"]], "commitOid": repo.head}, {}

    def batch(self, body, name):
        self.repo(name)
        self.may_write(name.split("/")[0])
        asked = json.loads(body)
        assert asked["operation"] == "upload" and asked["hash_algo"] == "sha256"

        def upload(sha, size):
            store = f"{self.storage.url}/store/{sha}?X-Amz-Signature=signed"
            if size <= self.hub.part_size:
                return {"href": store}
            parts = math.ceil(size / self.hub.part_size)
            header = {str(number): f"{store}&part={number}" for number in range(1, parts + 1)}
            return {
                "href": f"{self.url}/api/complete/{sha}",
                "header": {"chunk_size": str(self.hub.part_size), **header},
            }

        def entry(sha, size):
            if sha in self.hub.large:
                return {"oid": sha, "size": size}
            verify = {"href": f"{self.url}/{name}.git/info/lfs/objects/verify"}
            return {
                "oid": sha,
                "size": size,
                "authenticated": True,
                "actions": {"upload": upload(sha, size), "verify": verify},
            }

        objects = [entry(item["oid"], item["size"]) for item in asked["objects"]]
        return 200, {"transfer": "basic", "objects": objects}, {"Content-Type": "application/vnd.git-lfs+json"}

    def complete(self, body, sha):
        asked = json.loads(body)
        parts = self.hub.parts.get(sha, {})
        data = b"".join(parts[part["partNumber"]] for part in asked["parts"])
        tags = [f'"{hashlib.md5(parts[part["partNumber"]]).hexdigest()}"' for part in asked["parts"]]
        if hashlib.sha256(data).hexdigest() != sha or tags != [part["etag"] for part in asked["parts"]]:
            raise RefusalError(400, "InvalidPart")
        self.hub.large[sha] = data
        return 200, {}, {}

    def verify(self, body, name):
        self.may_write(name.split("/")[0])
        asked = json.loads(body)
        if len(self.hub.large.get(asked["oid"], b"")) != asked["size"]:
            raise RefusalError(404, "The object does not exist")
        return 200, {}, {}

    def commit(self, body, name):
        repo = self.repo(name)
        self.may_write(name.split("/")[0])
        files = dict(repo.files)
        lines = [json.loads(line) for line in body.splitlines()]
        assert lines[0]["key"] == "header" and lines[0]["value"]["summary"]
        if lines[0]["value"].get("parentCommit", repo.head) != repo.head:
            raise RefusalError(412, "A commit has happened since. Please refresh and try again.")
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                data = base64.b64decode(value["content"])
                if value["path"] == "README.md" and card_errors(data.decode()):
                    raise RefusalError(400, "Invalid metadata in README.md")
                files[value["path"]] = self.hub.keep(value["path"], data)
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.large and not self.hub.xet_hash(value["oid"]):
                    raise RefusalError(400, f"LFS pointer pointed to a file that does not exist: {value['path']}")
                files[value["path"]] = (value["oid"], value["size"])
            elif line["key"] == "deletedFile":
                if files.pop(value["path"], None) is None:
                    raise RefusalError(404, "A file with this name doesn't exist", "EntryNotFound")
            else:
                raise RefusalError(400, f"unknown operation {line['key']}")
        oid = repo.commit(files)
        return 200, {"success": True, "commitOid": oid, "commitUrl": f"{self.url}/{name}/commit/{oid}"}, {}

    def xet_token(self, _, name, kind, revision):
        self.at(name, revision)
        if kind == "write":
            self.may_write(name.split("/")[0])
        if self.hub.xet is None:
            raise RefusalError(404, "no Xet here")
        found = {"casUrl": f"local://{self.hub.xet}", "accessToken": "x", "exp": int(time.time()) + 3600}
        headers = {"X-Xet-Cas-Url": found["casUrl"], "X-Xet-Access-Token": "x", "X-Xet-Token-Expiration": found["exp"]}
        return 200, found, headers

    def resolve(self, _, name, revision, path):
        commit, files = self.at(name, revision)
        if path not in files:
            raise RefusalError(404, "Entry not found", "EntryNotFound")
        entry = files[path]
        if isinstance(entry, tuple):
            linked = {"X-Linked-Etag": f'"{entry[0]}"', "X-Linked-Size": str(entry[1]), "X-Repo-Commit": commit}
            if xet := self.hub.xet_hash(entry[0]):
                route = f"{self.url}/api/models/{name}/xet-read-token/{commit}"
                linked |= {"X-Xet-Hash": xet, "X-Xet-Refresh-Route": route}
            return 302, b"", {"Location": f"{self.storage.url}/store/{entry[0]}?X-Amz-Signature=signed", **linked}
        return 200, self.hub.small[entry], {"ETag": f'"{entry}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}


def front_matter(text) -> dict:
    match = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    found = yaml.safe_load(match[1]) if match else None
    return found if isinstance(found, dict) else {}


def card_errors(text) -> list[str]:
    """What the Hub finds wrong with a card's metadata."""
    try:
        metadata = front_matter(text)
    except yaml.YAMLError as error:
        return [f"invalid YAML: {error}"]
    wrong = [
        f'"{key}" must be a string'
        for key in ("license", "library_name", "pipeline_tag")
        if not isinstance(metadata.get(key, ""), str)
    ]
    if not re.fullmatch(r"|[a-z0-9.+-]+", str(metadata.get("license", ""))):
        wrong.append('"license" must be one of [apache-2.0, mit, …]')
    languages = metadata.get("language", [])
    if not all(
        re.fullmatch(r"[a-z]{2,3}(?:-\w+)?|multilingual", str(code))
        for code in ([languages] if isinstance(languages, str) else languages)
    ):
        wrong.append('"language" must only contain ISO 639 codes')
    if metadata.get("base_model_relation", "adapter") not in ("adapter", "merge", "quantized", "finetune"):
        wrong.append('"base_model_relation" is unknown')
    return wrong


@contextmanager
def hub_server():
    """A running Hub; it has no users and no repositories yet."""
    hub = Hub()
    storage = type("BoundStorage", (Storage,), {"hub": hub})
    api = type("BoundApi", (Api,), {"hub": hub, "storage": storage})
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for handler in (storage, api)]
    threads = []
    for server, handler in zip(servers, (storage, api), strict=True):
        server.daemon_threads = True
        handler.url = f"http://127.0.0.1:{server.server_address[1]}"
        threads.append(threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True))
        threads[-1].start()
    hub.url = api.url
    try:
        yield hub
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            server.server_close()
            thread.join()
