"""--provider vertex: Google's own SDKs against a stand-in for its HTTP services, with a service account's key."""

import json
import re
import warnings
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

genai = pytest.importorskip("google.genai", reason="needs pip install -c constraints.txt -e '.[vertex]'")
pytest.importorskip("google.cloud.storage", reason="needs pip install -c constraints.txt -e '.[vertex]'")

import upload_and_finetune  # noqa: E402

from tests.jobs.jobs_server import rows  # noqa: E402
from tests.scripts.stand_in import Request, StandIn  # noqa: E402
from tests.scripts.test_upload_script import call, logs  # noqa: E402

PARENT = "projects/p-1/locations/europe-west4"
JOB = f"{PARENT}/tuningJobs/77"
ENDPOINT = f"{PARENT}/endpoints/5"


class Google(StandIn):
    """Token, storage, tuning and model services."""

    def __init__(self):
        self.objects: dict[str, bytes] = {}
        self.looks = 0
        self.changes: dict = {}
        super().__init__(self.answer)

    def job(self) -> dict:
        done = self.looks > 2
        stats = {"supervisedTuningDataStats": {"totalBillableTokenCount": "9876"}}
        return {
            "name": JOB, "baseModel": "gemini-2.5-flash", "state": f"JOB_STATE_{'SUCCEEDED' if done else 'RUNNING'}",
            "supervisedTuningSpec": {"hyperParameters": {"epochCount": "3"}},
            **({"tunedModel": {"model": f"{PARENT}/models/6@1", "endpoint": ENDPOINT}} if done else {}),
            **({"tuningDataStats": stats} if done else {}),
        } | self.changes  # fmt: skip

    def answer(self, request: Request):
        path = urlsplit(request.path).path
        query = parse_qs(urlsplit(request.path).query)
        if path == "/token":
            return 200, {"access_token": "google-token", "expires_in": 3600, "token_type": "Bearer"}
        if path == "/upload/storage/v1/b/my-bucket/o":
            boundary = re.search(r'boundary="?([^";]+)', request.headers["content-type"])[1]
            _, head, content, _ = request.content.split(f"--{boundary}".encode())
            name = json.loads(head.partition(b"\r\n\r\n")[2])["name"]
            if query["ifGenerationMatch"] == ["0"] and name in self.objects:
                return 412, {"error": {"code": 412, "message": "conditionNotMet"}}
            self.objects[name] = content.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")
            return 200, {"name": name, "bucket": "my-bucket", "generation": "1"}
        if path.startswith("/upload/storage/"):
            return 404, {"error": {"code": 404, "message": "The specified bucket does not exist."}}
        if path == f"/v1beta1/{PARENT}/tuningJobs":
            return 200, self.job() if request.method == "POST" else {"tuningJobs": [self.job()]}
        if path == f"/v1beta1/{JOB}":
            self.looks += 1
            return 200, self.job()
        if path == f"/v1beta1/{JOB}:cancel":
            self.changes = {"state": "JOB_STATE_CANCELLED"}
            return 200, {}
        if path == f"/v1beta1/{ENDPOINT}:generateContent":
            said = request.json()["contents"][-1]["parts"][0]["text"]
            return 200, {"candidates": [{"content": {"role": "model", "parts": [{"text": f"Ответ на {said[:5]}"}]}}]}
        return 404, {"error": {"code": 404, "message": f"no {path}", "status": "NOT_FOUND"}}


@pytest.fixture(scope="module")
def service_account() -> dict:
    """A key file as Google's console makes it."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return {"type": "service_account", "project_id": "p-1", "private_key_id": "1", "client_email": "a@p-1.example",
            "private_key": key.private_bytes(*form).decode(), "client_id": "1"}  # fmt: skip


@pytest.fixture
def google(monkeypatch, service_account, working_folder):
    stand_in = Google()
    file = working_folder / "account.json"
    file.write_text(json.dumps({**service_account, "token_uri": f"{stand_in.url}/token"}), encoding="utf-8")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", stand_in.url)
    monkeypatch.setattr(upload_and_finetune, "HOSTED_INTERVAL", 0.02)
    yield stand_in
    stand_in.close()


def words(google: Google) -> tuple[str, ...]:
    return ("--provider", "vertex", "--project-id", "p-1", "--bucket", "my-bucket", "--location", "europe-west4",
            "--base-url", google.url)  # fmt: skip


def test_the_whole_way(google, rows_file):
    Path("held_out.jsonl").write_bytes(rows(6, start=500))
    options = (*words(google), "--file", rows_file, "--validation-file", "held_out.jsonl", "--model",
               "gemini-2.5-flash", "--epochs", "3", "--learning-rate-multiplier", "0.5",
               "--suffix", "Наташа")  # fmt: skip
    rehearsed = call(*options, "--dry-run").stdout
    assert google.requests == []
    printed = call(*options).stdout
    for line in (f"Job ID: {JOB}", "Status: running", "Status: succeeded", f"✅ Fine-tuned model: {ENDPOINT}",
                 "Trained tokens: 9,876"):  # fmt: skip
        assert line in printed
    assert printed.count("Ответ на ") == 5 and "Ответ на" not in logs()

    uris = re.findall(r"gs://my-bucket/(\S+)", printed)
    assert set(uris) == set(google.objects) and uris[0].startswith("govor/rows-") and len(uris) == 2
    sent = [json.loads(line) for line in google.objects[uris[0]].decode().splitlines()]
    given = [json.loads(line)["messages"] for line in rows_file.read_text(encoding="utf-8").splitlines()]
    assert len(sent) == 24
    assert sent[0]["systemInstruction"]["parts"] == [{"text": given[0][0]["content"]}]
    assert [turn["role"] for turn in sent[0]["contents"]][:2] == ["user", "model"]

    [created] = [a for a in google.requests if a.method == "POST" and a.path.endswith("tuningJobs")]
    assert created.headers["authorization"] == "Bearer google-token"
    assert created.json() == {
        "baseModel": "gemini-2.5-flash", "tunedModelDisplayName": "Наташа",
        "supervisedTuningSpec": {
            "trainingDatasetUri": f"gs://my-bucket/{uris[0]}", "validationDatasetUri": f"gs://my-bucket/{uris[1]}",
            "hyperParameters": {"epochCount": 3, "learningRateMultiplier": 0.5},
        },
    }  # fmt: skip
    assert f"POST {google.url}{created.path}" in rehearsed
    assert json.loads(rehearsed[rehearsed.index("\n{") :]) == created.json(), "--dry-run shows what the SDK sends"
    chats = [a.json() for a in google.requests if a.path.endswith(":generateContent")]
    assert {chat["systemInstruction"]["parts"][0]["text"] for chat in chats} == {given[0][0]["content"]}
    assert [turn["role"] for turn in chats[-1]["contents"]] == ["user", "model", "user"]


def test_the_written_configs_are_what_the_sdk_takes_and_sends(google):
    """google_… as arguments of the SDK makes the request that vertex_… is."""
    Path("rows.jsonl").write_bytes(rows(12))
    options = (
        "--write-config",
        "--file",
        "rows.jsonl",
        "--validation-file",
        "rows.jsonl",
        "--epochs",
        "2",
        "--suffix",
        "x",
    )
    call(*words(google), *options)
    made = {name: json.loads(Path(f"{name}_finetune_config.json").read_bytes()) for name in ("google", "vertex")}
    client = genai.Client(
        enterprise=True, project="p-1", location="europe-west4", http_options={"base_url": google.url}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tuning is experimental in the SDK
        config = genai.types.CreateTuningJobConfig(**made["google"].pop("config"))
        client.tunings.tune(**made["google"], config=config)
    client.close()
    assert google.requests[-1].json() == made["vertex"]
    assert made["vertex"]["supervisedTuningSpec"]["validationDatasetUri"] == "gs://my-bucket/rows-gemini.jsonl"


def test_jobs_are_listed_and_ended(google):
    assert f"{JOB}  running" in call(*words(google), "--list-jobs").stdout
    assert "Status: cancelled" in call(*words(google), "--cancel", "77").stdout
    assert "was cancelled" in call(*words(google), "--monitor", JOB, exit_code=1).stderr
    google.changes = {"state": "JOB_STATE_FAILED", "error": {"code": 3, "message": "Row 4 is too long"}}
    said = call(*words(google), "--monitor", "77", exit_code=1).stderr
    assert said == f"error: job {JOB} failed: Row 4 is too long (3)\n"
    said = call(*words(google), "--monitor", "78", exit_code=2).stderr
    assert "Google answers 404: no /v1beta1/" in said


def test_the_same_rows_are_stored_once(google):
    Path("rows.jsonl").write_bytes(rows(12))
    first, second = (call(*words(google), "--file", "rows.jsonl", "--upload-only").stdout for _ in range(2))
    assert len(google.objects) == 1
    assert re.search(r"File ID: (\S+)", first)[1] == re.search(r"File ID: (\S+)", second)[1]
    options = ("--provider", "vertex", "--project-id", "p-1", "--bucket", "other", "--base-url", google.url)
    said = call(*options, "--file", "rows.jsonl", "--upload-only", exit_code=2).stderr
    assert "The specified bucket does not exist" in said


def test_what_gemini_cannot_say_is_refused_or_given_up_by_choice(google):
    turns = [{"role": "user", "content": "а"}, {"role": "assistant", "content": "б", "weight": 0},
             {"role": "user", "content": "в"}, {"role": "assistant", "content": "г"}]  # fmt: skip
    Path("rows.jsonl").write_text(rows(12).decode() + json.dumps({"messages": turns}) + "\n", encoding="utf-8")
    options = (*words(google), "--file", "rows.jsonl", "--upload-only")
    result = call(*options, exit_code=1)
    assert "rows.jsonl:13: gemini has no place for: weights" in result.stderr and "--when-lossy" in result.stderr
    assert google.objects == {}
    call(*options, "--when-lossy", "split")
    [stored] = google.objects.values()
    assert len(stored.splitlines()) == 13


def test_without_credentials(google, monkeypatch):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "none.json")
    assert "no Google credentials" in call(*words(google), "--list-jobs", exit_code=2).stderr
