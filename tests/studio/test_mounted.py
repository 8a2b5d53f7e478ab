"""The same pages on the jobs server: what it trains is seen there, and its API is as it was."""

import httpx2
import pytest

from tests.conftest import govor
from tests.jobs.jobs_server import Server, envelope, rows
from train.jobs.data_folder import models_of


@pytest.mark.long
def test_the_jobs_server_shows_the_pages(tmp_path, base):
    with Server(tmp_path, base, training={"max_steps": 2, "logging_steps": 1}) as server:
        root = server.url.removesuffix("/v1")
        page = httpx2.get(f"{root}/")
        assert "default-src 'self'" in page.headers["content-security-policy"] and "<nav" in page.text
        assert httpx2.get(f"{root}/static/studio.js").status_code == 200
        assert httpx2.get(f"{root}/studio/about").json()["jobs"] is True
        assert httpx2.get(f"{root}/studio/runs", headers={"host": "evil.example"}).status_code == 403
        envelope(server.ask("GET", "/nothing").json())
        assert "content-security-policy" not in server.ask("GET", "/models").headers
        with server.client() as client:
            file = client.files.create(file=("rows.jsonl", rows(12)), purpose="fine-tune")
            job = client.fine_tuning.jobs.create(model="gpt-4-turbo", training_file=file.id)
        assert server.wait(job.id)["status"] == "succeeded", server.output(job.id)
        run = httpx2.get(f"{root}/studio/runs").json()["runs"][0]
        assert (run["id"], run["state"], run["job"], run["commands"]) == (job.id, "finished", True, [])
        folder, name = server.data / "runs" / job.id, server.get(f"/fine_tuning/jobs/{job.id}")["fine_tuned_model"]
        assert name in models_of(folder)
        refused = govor("eval", str(folder), "--samples", "1", "--judge", f"{server.url}#{name}", "--dry-run")
        assert refused.exit_code == 2 and f"{name} is among those that it would judge" in refused.stderr
        told = httpx2.get(f"{root}/studio/runs/{job.id}").json()
        assert told["data"]["train"]["rows"] > 0
        assert httpx2.post(f"{root}/studio/runs/{job.id}/merge", json={}).status_code == 409
        assert httpx2.get(f"{root}/studio/new").status_code == 404
