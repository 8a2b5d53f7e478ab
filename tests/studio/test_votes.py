"""The page of `govor vote` within the studio: the same votes, as silent on who said what, one process at a time."""

import json
from pathlib import Path

import pytest

from tests.studio.studio_server import StudioServer
from train.core.files import lock_file
from train.studio.vote_routes import find_comparisons

MODELS = {"model-x": 0, "model-y": 3}


def write_comparison(folder: Path, prompts: int = 4, said: str = "") -> None:
    """A comparison of model-x and model-y whose answers tell nothing of who gave them."""
    folder.mkdir(parents=True)
    lines = [
        {
            "prompt": [{"role": "user", "content": f"Вопрос {at}"}],
            "answers": {
                name: {"text": f"Ответ {at * 7 + place * 3} {said}"}
                for place, name in enumerate(("model-x", "model-y"))
            },
        }
        for at in range(prompts)
    ]
    (folder / "answers.jsonl").write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


@pytest.mark.slow
def test_votes_are_those_of_govor_vote(tmp_path):
    folder = tmp_path / "compare/trial"
    write_comparison(folder)
    with StudioServer(tmp_path) as server:
        seen = [server.ask("GET", "/studio/votes"), server.ask("GET", "/studio/votes/trial/texts?lang=ru")]
        assert [one["id"] for one in seen[0].json()["comparisons"]] == ["trial"] and "Назад" in seen[1].text
        seen.append(server.ask("GET", "/studio/votes/trial/state"))
        while (state := seen[-1].json())["at"] is not None:
            body = {"at": state["at"], "said": "left"}
            seen.append(server.ask("POST", "/studio/votes/trial/vote", json=body))
        for answer in seen:
            assert answer.status_code == 200 and "model-" not in answer.text
        assert (state["done"], state["of"]) == (4, 4)
        with (folder / "votes.jsonl").open("a+") as file:  # `govor vote` begins between two requests
            assert lock_file(file)
            busy = server.ask("GET", "/studio/votes/trial/state")
            assert busy.status_code == 400 and "another process takes votes there" in busy.json()["error"]["message"]
        told = server.ask("POST", "/studio/votes/trial/reveal", json={}).json()["result"]
        assert told[0][1][0] == "model-x against model-y" and told[0][1][3] == "4"
        assert len((folder / "preferences.jsonl").read_text().splitlines()) == 4
        late = server.ask("POST", "/studio/votes/trial/vote", json={"at": 0, "said": "left"})
        assert late.status_code == 409
        for wrong in ("nothing", "..", "..%2ftrial"):
            assert server.ask("GET", f"/studio/votes/{wrong}/state").status_code == 404, wrong
        foreign = {"origin": "http://evil.example"}
        assert server.ask("POST", "/studio/votes/trial/reveal", json={}, headers=foreign).status_code == 403


@pytest.mark.slow
def test_votes_need_the_key_and_their_page_does_not(tmp_path):
    write_comparison(tmp_path / "compare/trial")
    with StudioServer(tmp_path, key="k-1") as server:
        nobody = {"authorization": "Bearer other"}
        assert server.ask("GET", "/studio/votes/trial/state", headers=nobody).status_code == 401
        assert server.ask("GET", "/static/vote.js", headers=nobody).status_code == 200
        assert server.get("/studio/votes/trial/state")["of"] == 4


def test_links_never_lead_out(tmp_path):
    write_comparison(tmp_path / "elsewhere")
    write_comparison(tmp_path / "project/compare/x")
    (tmp_path / "project/compare/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "project/compare/file").mkdir()
    (tmp_path / "project/compare/file/answers.jsonl").symlink_to(tmp_path / "elsewhere/answers.jsonl")
    assert find_comparisons([tmp_path / "project"]) == {"x": tmp_path / "project/compare/x"}
