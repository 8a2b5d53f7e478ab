"""Who may talk to our servers: one table for both, and the key of the engines behind them."""

import asyncio

import pytest
from fastapi.testclient import TestClient

from tests.conftest import govor
from train.core.errors import GovorError
from train.jobs.bases import Catalogue
from train.jobs.server import make_app as jobs_app
from train.jobs.store import Store
from train.serving.guard import Access
from train.serving.in_engine.govor_engine_key import KEY_VARIABLE, EngineKey
from train.serving.response_store import ResponseStore
from train.serving.routes import make_app as serve_app

GIVEN = {"hosts": ["Box.local", "fd00::7"], "origins": ["https://Chat.example", "http://10.0.0.7:3000/"]}
TABLE = [
    # Host, Origin, status, what the refusal names
    ("127.0.0.1", None, 200, None),
    ("127.0.0.1:8000", None, 200, None),
    ("127.9.9.9:1", None, 200, None),
    ("localhost", None, 200, None),
    ("LOCALHOST:8000", None, 200, None),
    ("localhost.", None, 200, None),
    ("[::1]", None, 200, None),
    ("[::1]:8000", None, 200, None),
    ("[0:0:0:0:0:0:0:1]:8000", None, 200, None),
    ("box.local:8000", None, 200, None),
    ("BOX.LOCAL", None, 200, None),
    ("[FD00::7]:8000", None, 200, None),
    ("evil.example", None, 403, "evil.example"),
    ("evil.example:8000", None, 403, "evil.example:8000"),
    ("localhost.evil.example", None, 403, "localhost.evil.example"),
    ("127.0.0.1.evil.example", None, 403, "127.0.0.1.evil.example"),
    ("evil.example@localhost", None, 403, "evil.example@localhost"),
    ("localhost:80:evil.example", None, 403, "localhost:80:evil.example"),
    ("[::1].evil.example", None, 403, "[::1].evil.example"),
    ("[::1", None, 403, "[::1"),
    ("::1", None, 403, "::1"),
    ("[fd00::8]", None, 403, "[fd00::8]"),
    ("0.0.0.0:8000", None, 403, "0.0.0.0:8000"),
    ("192.168.1.5", None, 403, "192.168.1.5"),
    ("", None, 403, "''"),
    ("127.0.0.1", "http://localhost:3000", 200, None),
    ("127.0.0.1", "http://LOCALHOST", 200, None),
    ("127.0.0.1", "https://127.0.0.1:8443", 200, None),
    ("127.0.0.1", "http://[::1]:3000", 200, None),
    ("127.0.0.1", "https://chat.example", 200, None),
    ("127.0.0.1", "https://CHAT.example:443", 200, None),
    ("127.0.0.1", "http://10.0.0.7:3000", 200, None),
    ("127.0.0.1", "http://chat.example", 403, "http://chat.example"),
    ("127.0.0.1", "https://chat.example:444", 403, "https://chat.example:444"),
    ("127.0.0.1", "http://10.0.0.7:3001", 403, "http://10.0.0.7:3001"),
    ("127.0.0.1", "https://evil.example", 403, "https://evil.example"),
    ("127.0.0.1", "http://localhost.evil.example", 403, "http://localhost.evil.example"),
    ("127.0.0.1", "http://localhost@evil.example", 403, "http://localhost@evil.example"),
    ("127.0.0.1", "http://evil.example/http://localhost", 403, "http://evil.example/http://localhost"),
    ("127.0.0.1", "file://localhost", 403, "file://localhost"),
    ("127.0.0.1", "null", 403, "null"),
    ("127.0.0.1", "", 403, "''"),
    ("evil.example", "http://localhost", 403, "evil.example"),
]


def apps(tmp_path, access: Access):
    """The app of each server of ours."""
    yield serve_app([], access)
    yield jobs_app(Store(tmp_path / "data"), ResponseStore(None), Catalogue({}, {}, {}), access, 1)


@pytest.mark.parametrize(("host", "origin", "status", "named"), TABLE)
def test_hosts_and_origins(tmp_path, host, origin, status, named):
    headers = {"host": host} | ({} if origin is None else {"origin": origin})
    for app in apps(tmp_path, Access(**GIVEN)):
        client = TestClient(app)
        responses = [client.get("/v1/models", headers=headers), client.get("/health", headers=headers)]
        # a form or text/plain, which a browser sends without asking first
        plain = {**headers, "content-type": "text/plain"}
        chat = client.post("/v1/chat/completions", content='{"model": "x"}', headers=plain)
        responses.append(chat)
        for response in responses:
            assert response.headers["x-request-id"]
            assert (response.status_code == 403) == (status == 403), response.text
        if status == 403:
            error = chat.json()["error"]
            assert named in error["message"] and error["code"] == "foreign_web_page"
        else:
            assert responses[0].status_code == 200


@pytest.mark.parametrize("headers", [[("host", "localhost"), ("host", "evil.example")],
                                     [("origin", "http://localhost"), ("origin", "http://evil.example")]])  # fmt: skip
def test_a_second_header_does_not_hide(tmp_path, headers):
    for app in apps(tmp_path, Access()):
        seen = []
        scope = {"type": "http", "method": "GET", "path": "/v1/models", "query_string": b"", "headers": [
            (b"host", b"localhost"), *((name.encode(), value.encode()) for name, value in headers)]}  # fmt: skip

        async def receive():
            return {"type": "http.request", "body": b""}

        async def send(message, seen=seen):
            seen.append(message)

        asyncio.run(app(scope, receive, send))
        assert seen[0]["status"] == 403


@pytest.mark.parametrize(
    ("authorization", "status"),
    [("bearer sk-right", 200), ("BEARER  sk-right ", 200), ("bearer sk-wrong", 401), ("Basic sk-right", 401),
     ("sk-right", 401), ("Bearer", 401), ("Bearer sk-right sk-right", 401)],
)  # fmt: skip
def test_the_key_s_scheme_in_any_case(tmp_path, authorization, status):
    for app in apps(tmp_path, Access("sk-right")):
        client = TestClient(app, base_url="http://localhost")
        for path in ("/v1/models", "/v1/models/"):
            assert client.get(path, headers={"authorization": authorization}).status_code == status
        assert client.head("/v1/models", headers={"authorization": authorization}).status_code == status


def test_a_page_that_was_let_in_may_read_the_answers(tmp_path):
    ask = {
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
        "access-control-request-private-network": "true",
    }  # as Chrome adds for a page of the internet
    for key in (None, "sk-right"):
        for app in apps(tmp_path, Access(key, origins=["https://chat.example"])):
            client = TestClient(app, base_url="http://localhost")
            allowed = client.options("/v1/chat/completions", headers={"origin": "https://chat.example", **ask})
            assert allowed.status_code == 200
            assert allowed.headers["access-control-allow-private-network"] == "true"
            assert allowed.headers["access-control-allow-origin"] == "https://chat.example"
            shown = {"origin": "https://chat.example", "authorization": "Bearer sk-right"}
            answer = client.get("/v1/models", headers=shown)
            assert answer.status_code == 200
            assert answer.headers["access-control-allow-origin"] == "https://chat.example"
            assert "retry-after" in answer.headers["access-control-expose-headers"], "an SDK in the page reads it"
            if key:  # the page can read why
                refused = client.get("/v1/models", headers={"origin": "https://chat.example"})
                assert refused.status_code == 401
                assert refused.headers["access-control-allow-origin"] == "https://chat.example"
            foreign = client.options("/v1/chat/completions", headers={"origin": "https://evil.example", **ask})
            assert foreign.status_code in (400, 403) and "access-control-allow-origin" not in foreign.headers


def test_with_a_key_the_key_decides(tmp_path):
    for app in apps(tmp_path, Access("sk-right")):
        client = TestClient(app)
        foreign = {"host": "box.local", "origin": "https://evil.example"}
        for given in ("Bearer sk-wrong", "Bearer", "sk-right", "", "Basic sk-right"):
            assert client.get("/v1/models", headers={**foreign, "authorization": given}).status_code == 401
        assert client.get("/v1/models", headers={**foreign, "authorization": "Bearer sk-right"}).status_code == 200
        assert client.get("/health").status_code != 401


@pytest.mark.parametrize(
    "given",
    [{"hosts": ["box:80"]}, {"hosts": ["abc:80"]}, {"hosts": ["http://box"]}, {"hosts": [""]}, {"hosts": ["a b"]},
     {"origins": ["box"]}, {"origins": ["*"]}, {"origins": ["null"]}, {"origins": ["http://"]},
     {"origins": ["http://a/b"]}],
)  # fmt: skip
def test_what_is_no_host_or_origin_is_refused_at_the_start(given):
    with pytest.raises(GovorError, match="expected"):
        Access(**given)


def test_an_engine_answers_nobody_else(monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, "right")

    async def engine(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"answer"})

    client = TestClient(EngineKey(engine))
    for path in ("/v1/chat/completions", "/tokenize", "/invocations", "/metrics", "/load_model", "/health/x"):
        assert client.post(path).status_code == 401
        assert client.post(path, headers={"authorization": "Bearer wrong"}).status_code == 401
        assert client.post(path, headers={"authorization": "Bearer right"}).text == "answer"
    assert client.get("/health").status_code == 200


def test_no_key_on_a_command_line(tmp_path):
    """There is no option that takes the key itself; a file that has none is named."""
    for verb in (["serve", "runs/x"], ["jobs", "serve"], ["chat", "runs/x"], ["jobs", "list"]):
        result = govor(*verb, "--api-key", "sk-secret")
        assert result.exit_code == 2
        assert "No such option" in result.output and "--api-key-file" in result.output
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "odd").write_bytes(b"\xff\xfe")
    for name in ("empty", "odd", "missing"):
        result = govor("jobs", "list", "--api-key-file", name)
        assert result.exit_code == 2
        assert result.stderr.startswith(f"error: --api-key-file {name}: ") and result.stderr.count("\n") == 1
