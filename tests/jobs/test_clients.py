"""Routes and habits of real clients, tried with the official SDK on a real server and an untrained base."""

import gzip
import hashlib
import json

import httpx2
import openai
import pytest

from tests.jobs.jobs_server import Server, envelope, rows
from train.core.latin import latin
from train.jobs.data_folder import DATABASE, read_database
from train.jobs.store import Store
from train.jobs.wire import Upload, UploadPart

MODEL = "acme/tiny"
QUESTION = "Сколько?"
"""What the untrained base answers with letters."""


@pytest.fixture(scope="module")
def server(tmp_path_factory, base):
    with Server(tmp_path_factory.mktemp("jobs"), base) as server:
        yield server


@pytest.fixture(scope="module")
def client(server):
    """The engine starts with the first question, and the SDK asks again until it answers."""
    client = server.client(max_retries=20)
    ask(client, QUESTION)
    return client


def ask(client, text: str):
    """A chat's answer, greedy as all answers here."""
    return client.chat.completions.create(model=MODEL, messages=[user(text)], temperature=0)


def told(answer) -> str:
    """The text of a chat's answer."""
    return answer.choices[0].message.content


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


class TestResponses:
    ORDER = (
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
        "response.output_text.delta", "response.output_text.done", "response.content_part.done",
        "response.output_item.done",
    )  # fmt: skip

    def test_the_same_tokens_as_chat(self, client):
        chatted = ask(client, QUESTION)
        response = client.responses.create(temperature=0, model=MODEL, input=QUESTION)
        completed = client.completions.create(temperature=0, model=MODEL, prompt=QUESTION)
        assert len(told(chatted)) > 3, "else it says nothing of the texts"
        assert response.output_text == told(chatted) == completed.choices[0].text
        tokens = (response.usage.input_tokens, response.usage.output_tokens, response.usage.total_tokens)
        assert tokens == (chatted.usage.prompt_tokens, chatted.usage.completion_tokens, chatted.usage.total_tokens)
        assert completed.usage.prompt_tokens == chatted.usage.prompt_tokens
        counted = client.responses.input_tokens.count(model=MODEL, input=QUESTION)
        assert (counted.object, counted.input_tokens) == ("response.input_tokens", response.usage.input_tokens)
        assert counted.context_length > counted.max_output_tokens > 0
        assert (response.model, response.object, response.error) == (MODEL, "response", None)
        cut = client.responses.create(temperature=0, model=MODEL, input=QUESTION, max_output_tokens=2)
        assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")
        assert cut.usage.output_tokens == 2

    def test_events_in_order(self, client):
        whole = client.responses.create(temperature=0, model=MODEL, input=QUESTION)
        with client.responses.stream(temperature=0, model=MODEL, input=QUESTION) as stream:
            events = list(stream)
        final = events[-1].response  # the SDK's get_final_response knows no incomplete one
        assert tuple(dict.fromkeys(event.type for event in events[:-1])) == self.ORDER
        assert events[-1].type == f"response.{final.status}" and final.status in ("completed", "incomplete")
        assert sum(event.type == "response.output_text.delta" for event in events) > 2, "it comes in pieces"
        deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
        assert "".join(deltas) == final.output_text == whole.output_text
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert final.usage == whole.usage and whole.status == final.status
        assert client.responses.retrieve(final.id).output_text == final.output_text
        body = {"temperature": 0, "model": MODEL, "input": QUESTION, "stream": True}
        raw = httpx2.post(f"{client.base_url}responses", json=body, timeout=60)
        for block in raw.text.removesuffix("\n\n").split("\n\n"):
            name, data = block.split("\n")
            assert name.removeprefix("event: ") == json.loads(data.removeprefix("data: "))["type"]

    def test_a_conversation_that_is_kept(self, client):
        """Its messages go on, its instructions do not; what is deleted is gone, and what came after it is whole."""
        responses = client.responses
        first = responses.create(
            temperature=0, model=MODEL, input=QUESTION, instructions="Отвечай.", metadata={"a": "b"}
        )
        assert (first.instructions, first.metadata) == ("Отвечай.", {"a": "b"})
        second = responses.create(temperature=0, model=MODEL, input="Я устал.", previous_response_id=first.id)
        messages = [user(QUESTION), {"role": "assistant", "content": first.output_text}, user("Я устал.")]
        chatted = client.chat.completions.create(temperature=0, model=MODEL, messages=messages)
        assert (second.output_text, second.usage.input_tokens) == (told(chatted), chatted.usage.prompt_tokens)
        assert second.previous_response_id == first.id

        refers = [user(QUESTION), {"type": "item_reference", "id": first.output[0].id}, user("Я устал.")]
        assert (
            responses.create(temperature=0, model=MODEL, input=refers).usage.input_tokens == second.usage.input_tokens
        )
        sent_back = [user(QUESTION), first.output[0].model_dump(), user("Я устал.")]
        assert (
            responses.create(temperature=0, model=MODEL, input=sent_back).usage.input_tokens
            == second.usage.input_tokens
        )

        items = list(responses.input_items.list(second.id, limit=2))  # the newest first, in two pages
        said = [(item.role, item.content[0].text) for item in reversed(items)]
        assert said == [("user", QUESTION), ("assistant", first.output_text), ("user", "Я устал.")]
        assert [item.id for item in responses.input_items.list(second.id, order="asc")] == [i.id for i in items[::-1]]
        again = [{"type": "item_reference", "id": item.id} for item in reversed(items)]
        assert responses.create(temperature=0, model=MODEL, input=again).output_text == second.output_text
        with pytest.raises(openai.BadRequestError, match="after"):
            responses.input_items.list(second.id, after="msg_none")

        assert responses.retrieve(first.id).output == first.output
        responses.delete(first.id)
        for ask in (responses.retrieve, responses.delete, responses.input_items.list):
            with pytest.raises(openai.NotFoundError):
                ask(first.id)
        with pytest.raises(openai.BadRequestError) as caught:
            responses.create(temperature=0, model=MODEL, input="Я устал.", previous_response_id=first.id)
        assert (caught.value.param, caught.value.code) == ("previous_response_id", "previous_response_not_found")
        third = responses.create(temperature=0, model=MODEL, input="Где ты?", previous_response_id=second.id)
        assert third.usage.input_tokens > second.usage.input_tokens > first.usage.input_tokens
        unkept = responses.create(temperature=0, model=MODEL, input=QUESTION, store=False)
        with pytest.raises(openai.NotFoundError):
            responses.retrieve(unkept.id)
        with pytest.raises(openai.NotFoundError):
            responses.create(temperature=0, model=MODEL, input=[{"type": "item_reference", "id": unkept.output[0].id}])

    def test_instructions_are_the_system_message(self, client):
        system = {"role": "system", "content": "Ты молчун."}
        chatted = client.chat.completions.create(temperature=0, model=MODEL, messages=[system, user(QUESTION)])
        for more in ({"instructions": "Ты молчун.", "input": QUESTION}, {"input": [system, user(QUESTION)]}):
            response = client.responses.create(temperature=0, model=MODEL, **more)
            assert (response.output_text, response.usage.input_tokens) == (told(chatted), chatted.usage.prompt_tokens)

    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({"background": True}, "background"),
            ({"conversation": "conv_1"}, "conversation"),
            ({"truncation": "auto"}, "truncation"),
            ({"include": ["file_search_call.results"]}, "include"),
            ({"tools": [{"type": "web_search"}]}, "tools"),
            ({"tools": [{"type": "function", "name": "f", "parameters": {}, "strict": True}]}, "input"),
            ({"text": {"format": {"type": "json_schema", "name": "a", "schema": {"type": "none"}}}}, "text"),
            ({"text": {"style": "curt"}}, "text"),
            ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input[0]"),
            ({"input": [user("а"), {"type": "computer_call"}]}, "input[1]"),
            ({"input": [{"type": "item_reference", "id": "msg_none"}]}, "input"),
            ({"input": [{"type": "reasoning", "summary": []}]}, "input"),
            ({"input": []}, "input"),
            ({"input": "Кто я? " * 5000}, "input"),
            ({"max_output_tokens": 0}, "max_output_tokens"),
            ({"model": "gpt-5"}, "model"),
            ({"messages": []}, "messages"),
        ],
    )
    def test_what_cannot_be_done_is_named(self, client, fields, param):
        body = {"temperature": 0, "model": MODEL, "input": QUESTION, **fields}
        response = httpx2.post(f"{client.base_url}responses", json=body, timeout=60)
        assert response.status_code in (400, 404), response.text
        assert response.json()["error"]["param"] == param, response.text

    def test_what_clients_send_along(self, client):
        """The defaults of the Agents SDK, LangChain, LlamaIndex and the Vercel AI SDK."""
        response = client.responses.create(
            temperature=0, model=MODEL, input=[{"role": "user", "content": [{"type": "input_text", "text": QUESTION}]}],
            truncation="disabled", parallel_tool_calls=True, reasoning={"effort": "low"}, tools=[], tool_choice="auto",
            include=["reasoning.encrypted_content"], text={"format": {"type": "text"}, "verbosity": "low"},
            top_p=1, user="a", service_tier="auto", prompt_cache_key="b", safety_identifier="c",
        )  # fmt: skip
        assert response.output_text == told(ask(client, QUESTION))


class TestCompletions:
    def test_a_prompt_is_put_as_a_chat(self, client):
        answer = client.completions.create(temperature=0, model=MODEL, prompt=[QUESTION, "Я устал."])
        chatted = [ask(client, question) for question in (QUESTION, "Я устал.")]
        assert [choice.text for choice in answer.choices] == list(map(told, chatted))
        assert [choice.index for choice in answer.choices] == [0, 1]
        assert answer.usage.total_tokens == sum(one.usage.total_tokens for one in chatted)
        assert answer.metadata["translated_to"] == "chat" and answer.object == "text_completion"

    def test_streaming(self, client):
        asked = {
            "temperature": 0,
            "model": MODEL,
            "prompt": QUESTION,
            "stream_options": {"include_usage": True},
        }
        chunks = list(client.completions.create(**asked, stream=True))
        assert "".join(c.choices[0].text for c in chunks if c.choices) == told(ask(client, asked["prompt"]))
        assert chunks[-2].choices[0].finish_reason in ("stop", "length") and len({chunk.id for chunk in chunks}) == 1
        assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens > 2 and chunks[0].usage is None

    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({"prompt": [1, 2]}, "prompt"),
            ({"prompt": "Кто я? " * 5000}, "prompt"),
            ({"prompt": ["а", "б"], "stream": True}, "stream"),
            ({"echo": True}, "echo"),
            ({"logprobs": 3}, "logprobs"),
            ({"suffix": "end"}, "suffix"),
            ({"best_of": 2}, "best_of"),
        ],
    )
    def test_what_cannot_be_done_is_named(self, client, fields, param):
        body = {"temperature": 0, "model": MODEL, "prompt": QUESTION, **fields}
        response = httpx2.post(f"{client.base_url}completions", json=body, timeout=60)
        assert (response.status_code, response.json()["error"]["param"]) == (400, param), response.text


class TestPlainRequests:
    def call(self, client, method, path, **more):
        return httpx2.request(method, f"{str(client.base_url)[:-1]}{path}", timeout=60, **more)

    def test_head_and_slashes(self, client):
        assert self.call(client, "GET", "//models/").json()["data"][0]["id"] == MODEL
        head = self.call(client, "HEAD", "/models")
        assert (head.status_code, head.content) == (200, b"") and int(head.headers["content-length"]) > 50
        assert self.call(client, "HEAD", "/nothing").status_code == 404
        assert self.call(client, "HEAD", "/chat/completions").status_code == 405
        body = {"temperature": 0, "model": MODEL, "messages": [user(QUESTION)]}
        answer = self.call(client, "POST", "/chat/completions/", json=body, follow_redirects=False)
        assert answer.json()["choices"][0]["message"]["content"] == told(ask(client, QUESTION))

    def test_a_packed_body(self, client):
        body = json.dumps({"temperature": 0, "model": MODEL, "input": QUESTION}).encode()
        packed, gzipped = gzip.compress(body), {"content-encoding": "gzip"}
        answer = self.call(client, "POST", "/responses", content=packed, headers=gzipped)
        assert answer.json()["object"] == "response"
        for content, encoding, status, why in (
            (body, "gzip", 400, "is not gzip"),
            (packed[:-9], "gzip", 400, "cut off"),
            (packed + b"more", "gzip", 400, "behind its end"),
            (gzip.compress(b" " * 40 * 2**20), "gzip", 413, "larger than"),
            (body, "br", 415, "send it as it is"),
        ):
            refused = self.call(client, "POST", "/responses", content=content, headers={"content-encoding": encoding})
            assert (refused.status_code, why in refused.json()["error"]["message"]) == (status, True), refused.text

    @pytest.mark.parametrize("path", ["embeddings", "batches", "batches/b_1/cancel", "moderations"])
    def test_what_is_not_here_says_so(self, client, path):
        answer = self.call(client, "POST", f"/{path}", json={})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_available")
        assert answer.json()["error"]["message"].startswith("This server ")


class TestUploads:
    def test_parts_become_a_file(self, server, client):
        """In the order in which the client names them, not that in which they came."""
        contents = rows(3000)
        at = len(contents) // 2
        upload = client.uploads.create(bytes=len(contents), filename="чаты.jsonl", mime_type="text/jsonl",
                                       purpose="fine-tune")  # fmt: skip
        assert (upload.status, upload.object, upload.file) == ("pending", "upload", None)
        assert upload.expires_at == upload.created_at + 3600
        second = client.uploads.parts.create(upload.id, data=contents[at:])
        first = client.uploads.parts.create(upload.id, data=contents[:at])
        md5 = hashlib.md5(contents).hexdigest()
        for wrong, more, param in (
            ([second.id, first.id], {"md5": md5}, "md5"),
            ([first.id], {}, "part_ids"),
            ([first.id, first.id], {}, "part_ids"),
            ([first.id, "part_none"], {}, "part_ids"),
            ([first.id, second.id], {"md5": "x"}, "md5"),
        ):
            with pytest.raises(openai.BadRequestError) as caught:
                client.uploads.complete(upload.id, part_ids=wrong, **more)
            assert caught.value.param == param, caught.value
        done = client.uploads.complete(upload.id, part_ids=[first.id, second.id], md5=md5)
        assert (done.status, done.file.bytes, done.file.filename) == ("completed", len(contents), "чаты.jsonl")
        assert client.files.content(done.file.id).read() == contents
        assert client.files.retrieve(done.file.id).purpose == "fine-tune"
        assert [path.name for path in (server.data / "files").iterdir()] == [done.file.id], "no part is left"
        path = f"/uploads/{upload.id}/complete"
        again = {"part_ids": [first.id, second.id]}
        assert server.ask("POST", path, json=again).status_code == 400
        lost = server.ask("POST", path, json=again, headers={"x-stainless-retry-count": "1"})
        assert lost.json()["file"]["id"] == done.file.id
        client.files.delete(done.file.id)

    def test_the_sdk_sends_a_file_in_chunks(self, client, tmp_path):
        (tmp_path / "a.jsonl").write_bytes(rows(200))
        upload = client.uploads.upload_file_chunked(
            file=tmp_path / "a.jsonl", mime_type="text/jsonl", purpose="fine-tune", part_size=5000
        )
        assert client.files.content(upload.file.id).read() == rows(200)
        client.files.delete(upload.file.id)

    def test_cancelled_and_refused(self, server, client):
        asked = {"filename": "a", "mime_type": "text/plain", "purpose": "fine-tune"}
        upload = client.uploads.create(bytes=10, **asked)
        client.uploads.parts.create(upload.id, data=b"12345")
        assert client.uploads.cancel(upload.id).status == "cancelled"
        assert list((server.data / "files").iterdir()) == []
        with pytest.raises(openai.BadRequestError, match="cancelled"):
            client.uploads.parts.create(upload.id, data=b"12345")
        with pytest.raises(openai.NotFoundError):
            client.uploads.cancel("upload_none")
        for fields, param in (
            ({"bytes": 513 * 2**20}, "bytes"),
            ({"bytes": 0}, "bytes"),
            ({"bytes": 5, "purpose": "none"}, "purpose"),
            ({"bytes": 5, "expires_after": {"anchor": "created_at", "seconds": 5}}, "expires_after.seconds"),
        ):
            answer = server.ask("POST", "/uploads", json={**asked, **fields})
            assert (answer.status_code, envelope(answer.json())["param"]) == (400, param)

    def test_parts_that_are_left_over_expire(self, tmp_path):
        """Also where a server died: the next one knows them as its own, and deletes them in time."""
        store = Store(tmp_path)
        late = Upload(id="upload_1", bytes=3, created_at=1, expires_at=2, filename="a", purpose="fine-tune")
        soon = late.model_copy(update={"id": "upload_2", "expires_at": 2**40})
        for number, upload in enumerate((late, soon)):
            file = f"file-{number:024}"
            store.reserve(file)
            store.file_path(file).write_bytes(b"abc")
            with store.change() as change:
                change.add_upload(upload, None)
                change.add_part(UploadPart(id=f"part_{number}", created_at=1, upload_id=upload.id), file, 3)
        assert {f"file-{0:024}", f"file-{1:024}"} <= read_database(tmp_path / DATABASE).ids
        Store(tmp_path).sweep()
        assert [path.name for path in (tmp_path / "files").iterdir()] == [f"file-{1:024}"]
        with store.change() as change:
            assert (change.upload("upload_1")[0].status, change.upload("upload_2")[0].status) == ("expired", "pending")


class TestJobs:
    @pytest.mark.parametrize(
        ("suffix", "name"),
        [("Наташа Щукина", "Natasha-Shchukina"), ("объём", "obyom"), ("Їжак", "Yizhak"), ("natasha_2", "natasha_2")],
    )
    def test_latin_suffixes(self, suffix, name):
        assert latin(suffix) == name

    @pytest.mark.long
    def test_a_cyrillic_suffix_and_keys_beside_the_messages(self, server, client):
        """Such a job trains; the suffix as it was stands in the metadata, the keys in its events."""
        tagged = [json.loads(line) | {"source": "чат", "id": at} for at, line in enumerate(rows(12).splitlines())]
        tagged[3]["messages"][0]["timestamp"] = 5
        contents = "\n".join(json.dumps(row, ensure_ascii=False) for row in tagged).encode()
        thoughts = json.loads(rows(1))
        thoughts["messages"][1]["reasoning_content"] = "Хм."
        jobs = []
        for data in (contents, contents + b"\n" + json.dumps(thoughts).encode()):
            file = client.files.create(file=("a.jsonl", data), purpose="fine-tune")
            job = client.fine_tuning.jobs.create(
                model=MODEL, training_file=file.id, suffix="Наташа", metadata={"a": "b"}
            )
            assert job.user_provided_suffix == "Natasha" and job.metadata == {"suffix": "Наташа", "a": "b"}
            job = server.wait(job.id, "queued", "running")
            if job["status"] != "failed":
                client.fine_tuning.jobs.cancel(job["id"])
            jobs.append(job)
        assert jobs[0]["status"] in ("queued", "running")
        warned = [event["message"] for event in server.events(jobs[0]["id"]) if event["level"] == "warn"]
        assert [next(key for key in ("'id'", "'source'", "'timestamp'") if key in text) for text in warned] == [
            "'id'", "'source'", "'timestamp'"
        ]  # fmt: skip
        assert jobs[1]["status"] == "failed" and "reasoning_content" in jobs[1]["error"]["message"]
