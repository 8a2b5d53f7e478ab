"""govor push against a Hub on this machine, through the unchanged client: what arrives, what is refused or resumed."""

import json
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from huggingface_hub import constants
from huggingface_hub.utils import close_session

from tests.conftest import REPOSITORY
from tests.exports.hub_server import User, card_errors, front_matter, hub_server
from train.chats.privacy.secret_scan import local_secrets, scan_file
from train.chats.readers import read_rows
from train.cli import main
from train.core.files import NOTE, note_files, sha256
from train.core.runs import Run
from train.evaluation.report import Sample
from train.exports.hub.card_samples import languages_of, read_run_rows, without_quotations
from train.exports.hub.card_usage import as_text
from train.exports.hub.files import with_public_base
from train.exports.hub.licences import Licence, licence_beside
from train.exports.hub.objections import file_objections
from train.exports.hub.upload import LONGEST_PAUSE

TOKEN = "hf_" + "Qz7" * 12
BASE, REPO = "acme/tiny-base", "ivan/natasha"


@pytest.fixture
def hub(base, working_folder, monkeypatch):
    """A Hub where Ivan may write and Acme has published the base; the client in this process talks to it."""
    with hub_server() as server:
        server.users |= {TOKEN: User("ivan", orgs=("sanctuary",)), "hf_read": User("reader", role="read")}
        files = {file.name: file.read_bytes() for file in base.iterdir() if file.is_file()}
        server.put(BASE, {**files, "README.md": b"---\nlicense: apache-2.0\n---\n# Tiny\n"})
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("time.sleep", server.slept.append)
        yield server
        close_session()


@pytest.fixture
def merged(run, base) -> Run:
    """The run with a merged model in two shards: the base's weights stand in, no test here computes with them."""
    from safetensors.torch import load_file, save_file

    run.merged.mkdir()
    for file in (file for file in base.iterdir() if file.suffix in (".json", ".jinja")):
        shutil.copy(file, run.merged)
    weights = sorted(load_file(base / "model.safetensors").items())
    for number, part in enumerate((weights[:8], weights[8:]), 1):
        save_file(dict(part), run.merged / f"model-0000{number}-of-00002.safetensors")
    run.update_manifest(merge={"target": "16bit", "dtype": "float32", "drift": None, "passed": None})
    return run


def push(*arguments: str, repo: str = REPO, base: str | None = BASE, **kwargs):
    words = ["push", "runs/done", repo, *(["--base", base] if base else []), *arguments]
    return CliRunner().invoke(main, words, catch_exceptions=False, **kwargs)


def environment(hub) -> dict[str, str]:
    return {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HUB_OFFLINE": "0",
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(Path("hf").absolute()),
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",
    }


def logits(model, run: Run) -> torch.Tensor:
    from train.encoding.loss_mask import encode_row
    from train.models.load import load_tokenizer

    ids = encode_row(load_tokenizer(run.adapter), read_rows(run.held_out_file)[0]).input_ids
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits


class TestWholeWay:
    @pytest.mark.long
    def test_what_is_downloaded_again_is_what_was_trained(self, run, hub, base):
        """In processes of their own, told by HF_ENDPOINT alone; the card's own code loads it by name from there."""
        hub.part_size = 60_000  # the adapter goes in three parts
        command = [sys.executable, "-m", "train.cli", "push", "runs/done", REPO, "--base", BASE]
        env = environment(hub)
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert f"{hub.url}/{REPO} (private): 7 files, commit {hub.repos[REPO].head[:10]}" in done.stdout
        assert hub.repos[REPO].private and hub.sent("PUT", "/store/") == 3 and hub.sent("POST", "/api/complete/") == 1
        assert TOKEN not in done.stdout + done.stderr

        fetch = f"from huggingface_hub import snapshot_download; snapshot_download({REPO!r}, local_dir='got')"
        subprocess.run([sys.executable, "-c", fetch], env=env, check=True, capture_output=True)
        got = Path("got")
        names = {file.name for file in got.iterdir() if file.is_file()}
        written = {file.name for file in run.adapter.iterdir() if file.name != NOTE}
        assert names == {*written, "README.md", ".gitattributes"}
        for name in names - {"README.md", ".gitattributes", "adapter_config.json"}:
            assert (got / name).read_bytes() == (run.adapter / name).read_bytes(), name
        before, after = (json.loads((folder / "adapter_config.json").read_bytes()) for folder in (run.adapter, got))
        assert after == {**before, "base_model_name_or_path": BASE}

        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        def load(adapter: Path):
            whole = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
            return PeftModel.from_pretrained(whole, adapter).eval()

        assert torch.equal(logits(load(got), run), logits(load(run.adapter), run))
        code = re.search(r"```python\n(.*?)```", (got / "README.md").read_text(encoding="utf-8"), re.DOTALL)[1]
        assert f'from_pretrained("{REPO}"' in code
        ran = subprocess.run([sys.executable, "-c", code], env=environment(hub), capture_output=True, text=True)
        assert ran.returncode == 0 and ran.stdout.strip(), ran.stderr
        assert hub.sent("GET", f"/{BASE}/resolve/")  # the base came by the name in adapter_config.json

    def test_through_xet(self, run, hub, tmp_path):
        """The client's way unless told otherwise: chunks, by its own library, up and down."""
        hub.xet = tmp_path / "chunks"
        hub.xet.mkdir()
        env = environment(hub) | {"HF_HUB_DISABLE_XET": "0"}
        command = [sys.executable, "-m", "train.cli", "push", "runs/done", REPO, "--base", BASE]
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert hub.sent("GET", "xet-write-token") and not hub.sent("POST", "objects/batch") and not hub.stored_bytes()
        fetch = f"from huggingface_hub import snapshot_download; snapshot_download({REPO!r}, local_dir='got')"
        subprocess.run([sys.executable, "-c", fetch], env=env, check=True, capture_output=True)
        assert hub.sent("GET", "xet-read-token")
        name = "adapter_model.safetensors"
        assert (Path("got") / name).read_bytes() == (run.adapter / name).read_bytes()
        again = subprocess.run(command, env=env, capture_output=True, text=True)
        assert again.returncode == 0 and "held all of it already" in again.stdout

    def test_a_hub_without_xet(self, run, hub, monkeypatch):
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
        done = push()
        assert done.exit_code == 2 and "HF_HUB_DISABLE_XET=1 sends it without Xet" in done.stderr.splitlines()[-1]

    def test_merged_model_then_nothing_is_sent_twice(self, merged, hub):
        assert push("--merged").exit_code == 0
        assert hub.files(REPO)["model-00001-of-00002.safetensors"] == next(merged.merged.glob("*1-of*")).read_bytes()
        stored, commits = hub.stored_bytes(), len(hub.repos[REPO].commits)
        again = push("--merged")
        assert again.exit_code == 0 and "held all of it already" in again.stdout
        assert (hub.stored_bytes(), len(hub.repos[REPO].commits)) == (stored, commits)

    def test_what_somebody_put_beside_the_model_stays_here(self, merged, hub):
        note_files(merged.merged)
        for name in ("notes.txt", "dialogues.json"):
            (merged.merged / name).write_text("{}")
        assert push("--merged").exit_code == 0
        sent = hub.files(REPO)
        assert "model-00001-of-00002.safetensors" in sent and not {"notes.txt", "dialogues.json", NOTE} & sent.keys()

    def test_licence_of_the_base_goes_with_its_weights(self, merged, hub, base, tmp_path):
        folder = shutil.copytree(base, tmp_path / "licensed")
        (folder / "LICENSE").write_text("Apache License\nVersion 2.0, January 2004\n")
        merged.update_manifest(base={**merged.manifest()["base"], "path": str(folder)})
        assert push("--merged").exit_code == 0
        assert hub.files(REPO)["LICENSE"].startswith(b"Apache")
        assert front_matter(hub.files(REPO)["README.md"].decode())["license"] == "apache-2.0"
        assert "LICENSE" not in push("--dry-run").stdout  # an adapter holds none of the base's weights

    def test_gguf(self, run, hub):
        Path("runs/done/exports/gguf").mkdir(parents=True)
        file = Path("runs/done/exports/gguf/natasha-f16.gguf")
        file.write_bytes(gguf({"general.name": "natasha", "general.source.url": f"{Path.cwd()}/merged"}))
        refused = push("--gguf")
        assert (
            refused.exit_code == 1 and "natasha-f16.gguf: general.source.url: folder of this machine" in refused.stderr
        )
        file.write_bytes(gguf({"general.name": "natasha"}))
        assert push("--gguf").exit_code == 0
        assert set(hub.files(REPO)) == {"README.md", "natasha-f16.gguf"}
        assert hub.files(REPO)["natasha-f16.gguf"] == file.read_bytes()
        card = hub.files(REPO)["README.md"].decode()
        assert f"ollama run hf.co/{REPO}" in card
        assert front_matter(card)["library_name"] == "gguf" and front_matter(card)["base_model_relation"] == "quantized"

    def test_another_kind_takes_the_place_of_the_first(self, merged, hub):
        push("--adapter")
        assert push("--merged").exit_code == 0
        assert not any(name.startswith("adapter") for name in hub.files(REPO))
        assert [*merged.manifest()["pushed"]] == [REPO] and merged.manifest()["pushed"][REPO]["what"] == "merged"


def gguf(texts: dict[str, str]) -> bytes:
    """A GGUF file without tensors: a vocabulary of three pieces, and the texts."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    pieces = ["а", "+79161234567", "б"]
    entries = [text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, len(pieces)) + b"".join(map(text, pieces))]
    entries += [text("general.alignment") + struct.pack("<II", 4, 32)]
    entries += [text(key) + struct.pack("<I", 8) + text(value) for key, value in texts.items()]
    return b"GGUF" + struct.pack("<IQQ", 3, 0, len(entries)) + b"".join(entries)


class TestDryRun:
    def test_lists_every_file_without_a_network_and_without_torch(self, run, hub):
        code = "import sys; from train.cli import main; main(sys.argv[1:], standalone_mode=False)"
        code += "; assert 'torch' not in sys.modules"
        words = ["push", "runs/done", REPO, "--base", BASE, "--dry-run"]
        env = {**environment(hub), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run([sys.executable, "-c", code, *words], env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        for file in run.adapter.glob("[!.]*"):
            assert re.search(rf"^  {re.escape(file.name)} +[\d.]+ k?B$", done.stdout, re.MULTILINE)
        assert "7 files, " in done.stdout and "# natasha" in done.stdout
        assert "licence of acme/tiny-base is asked of the Hub" in done.stderr
        assert hub.requests == []

    def test_says_what_speaks_against_it(self, run):
        run.update_manifest(status="running")
        done = push("--dry-run", "--license", "apache-2.0")
        assert done.exit_code == 1 and "runs/done is unfinished" in done.stderr and "README.md" in done.stdout


class TestCard:
    def test_metadata_and_figures_of_the_run(self, run, hub):
        run.update_manifest(evaluation={"base_loss": 6.5, "tuned_loss": 5.2, "rows": 5})
        push("--source", "24 invented dialogues | CC0", "--public")
        card = hub.files(REPO)["README.md"].decode()
        assert front_matter(card) == {
            "license": "apache-2.0",
            "base_model": BASE,
            "base_model_relation": "adapter",
            "library_name": "peft",
            "pipeline_tag": "text-generation",
            "language": ["ru"],
            "tags": ["lora", "sft", "trl", "govor"],
        }
        assert card_errors(card) == [] and not hub.repos[REPO].private
        train = run.manifest()["data"]["train"]
        for said in (
            "**6.500 before, 5.200 after** training (-20%)",
            "24 invented dialogues \\| CC0",
            f"| Dialogues to train on | {train['rows']} |",
            "| Learning rate | 0.02, cosine, warm-up 0.05 |",
            f"vllm serve {BASE} --enable-lora --max-lora-rank 16",
            "5 of 5 held-out prompts render exactly as in training",
        ):
            assert said in card, said

    def test_no_row_stands_in_it(self, run, hub, rows_file):
        assert push("--dry-run", "--samples").exit_code == 0
        card = push("--dry-run").stdout
        for row in read_rows(rows_file):
            for message in row.messages:
                assert message["content"] not in card

    def test_answers_that_quote_a_row_of_the_run_before_stay_out(self, run):
        """Of preference tuning, say, whose own rows are pairs."""
        shutil.copytree(run.path, "runs/later")
        later = Run(Path("runs/later"))
        config = later.config_file.read_text(encoding="utf-8").replace("start_from: null", "start_from: runs/done")
        file = str(run.config().data.train_file)
        Path("own.jsonl").write_text(
            '{"messages":[{"role":"user","content":"а"},{"role":"assistant","content":"б"}]}\n'
        )
        later.config_file.write_text(config.replace(file, "own.jsonl"), encoding="utf-8")
        later.update_manifest(
            data={**run.manifest()["data"], "train": {"rows": 1, "sha256": sha256(Path("own.jsonl"))}}
        )
        rows, complete = read_run_rows(later)
        learned = [row.messages for row in read_rows(Path(file))]
        assert complete and all(messages in [row.messages for row in rows] for messages in learned)
        later.update_manifest(start={"adapter_model.safetensors": "of another time"})
        assert read_run_rows(later)[1] is False, "it is no longer what was gone on from"

    def test_drift_of_the_merged_model(self, merged, hub):
        drift = {"rows": 5, "tokens": 247, "adapter_loss": 6.2806, "max_drift": 0.06}
        drift["16bit"] = {"mean_kl": 8e-8, "max_kl": 5e-7, "top1": 1.0, "loss": 6.2806}
        merged.update_manifest(merge={"target": "16bit", "dtype": "float32", "drift": drift, "passed": True})
        card = push("--merged", "--dry-run").stdout
        assert "at 247 held-out tokens: mean KL 8e-08 nats, the same likeliest token at 100.0%" in card
        drift["16bit"] |= {"adapter_loss": 6.1}
        merged.update_manifest(merge={"target": "16bit", "dtype": "float32", "drift": drift, "passed": True})
        card = push("--merged", "--dry-run").stdout
        assert "held-out loss 6.281 (6.100 as adapter, 6.281 over the 4-bit base of training)" in card

    def test_answers_that_quote_a_row_stay_out(self, run, rows_file):
        row = read_rows(rows_file)[0]
        answer = next(m["content"] for m in row.messages if m["role"] == "assistant")
        page = "# done\n\n## Кто я?\n\n**Base**\n\nшум\n\n**Tuned**\n\nТы — тот, кто спросил.\n\n"
        page += "## — Я устал.\n\n— От чего?\n\n— От себя.\n\n**Base**\n\nшум\n\n**Tuned**\n\n" + answer + "\n"
        run.samples_file.write_text(page, encoding="utf-8")
        done = push("--dry-run")
        assert "Ты — тот, кто спросил." in done.stdout and answer not in done.stdout
        assert "1 of 2 answers stay out of the card, they quote rows (--samples shows them)" in done.stderr
        assert answer in push("--dry-run", "--samples").stdout
        assert "кто спросил" not in push("--dry-run", "--no-samples").stdout

    def test_without_the_training_rows_no_answer_is_shown(self, run):
        run.samples_file.write_text("## Кто я?\n\n**Base**\n\nшум\n\n**Tuned**\n\nТы.\n", encoding="utf-8")
        data = run.manifest()["data"]
        run.update_manifest(data={**data, "train": {**data["train"], "sha256": "0" * 64}})
        assert "may quote rows: the training file is not here as it was" in push("--dry-run").stderr

    def test_prompts_that_are_rows_stay_out(self, rows_file):
        rows = read_rows(rows_file)
        asked = next(m["content"] for m in rows[0].messages if m["role"] == "user")
        assert without_quotations([Sample(asked, "", "да"), Sample("Кто я?", "", "да")], rows) == [
            Sample("Кто я?", "", "да")
        ]

    def test_languages(self):
        from train.chats.rows import Row

        def rows(text: str):
            return [Row(1, [{"role": "user", "content": text}])]

        for code, text in {
            "ru": "Ты ещё здесь? Это мы.",
            "uk": "Її тут немає, є інші.",
            "en": "What is the matter with you and that cat?",
            "zh": "你好，今天怎么样？",
            "ja": "今日はどうですか",
        }.items():
            assert languages_of(rows(text)) == [code]
        assert languages_of(rows("Was ist denn hier los?")) == []


SECRETS = {
    "Hugging Face token": "hf_" + "aB3" * 12,
    "OpenAI or Anthropic key": "sk-proj-" + "aB3_" * 10,
    "GitHub token": "ghp_" + "aB3" * 12,
    "AWS key": "AKIA" + "ABCD2345EFGH6789",
    "Google key": "AIza" + "aB3-_" * 7,
    "Telegram bot token": "123456789:AA" + "aB3" * 11,
    "private key": "-----BEGIN " + "OPENSSH PRIVATE KEY-----",
    "password in an address": "https://ivan:" + "s3cret@localhost/x",
    "password or key": '"api_key": "' + 'aB3dE5gH7"',
}


class TestScan:
    @pytest.mark.parametrize("what", SECRETS)
    def test_secrets(self, what):
        nobody = local_secrets(None, [])
        for name, text in {
            "notes.txt": f"one\n{SECRETS[what]}\n",
            "config.json": json.dumps({"note": SECRETS[what]}),
        }.items():
            [finding] = scan_file(name, text.encode(), nobody)
            assert finding.kind == "secret" and what in str(finding)
            assert SECRETS[what] not in str(finding)

    def test_the_very_token_in_use_and_what_the_environment_keeps(self, monkeypatch):
        monkeypatch.setenv("WEATHER_KEY", "правда-ли-что-весна")
        guarded = local_secrets("an odd token of mine", [])
        assert len(scan_file("a.txt", "an odd token of mine, правда-ли-что-весна".encode(), guarded)) == 2

    def test_personal_data_and_folders(self, tmp_path):
        text = b"{# +7 916 123-45-67, ivan@example.com #}\n/home/ivan/chats"
        found = scan_file("a.jinja", text, local_secrets(None, []))
        assert [(one.kind, one.description[:12]) for one in found] == [
            ("personal-data", "line 1: phon"),
            ("personal-data", "line 1: emai"),
            ("path", "line 2: fold"),
        ]
        assert "123-45" not in str(found)
        assert scan_file("a.txt", f"see {tmp_path}/x".encode(), local_secrets(None, [tmp_path]))[0].kind == "path"
        config = json.dumps({"_name_or_path": "C:\\Users\\Ivan\\m"}).encode()
        windows = scan_file("config.json", config, local_secrets(None, []))
        assert [one.kind for one in windows] == ["path"]

    def test_a_vocabulary_is_no_address_book(self):
        pieces = ["@Override", "1234567890", "/home/", "9999999999", "https://", "ivan", "t.me/", "token", "0" * 16]
        tree = {"model": {"vocab": {piece: at for at, piece in enumerate(pieces)}, "merges": [["i", "v"]]}}
        assert scan_file("tokenizer.json", json.dumps(tree).encode(), local_secrets(None, [])) == []
        tree["model"]["vocab"]["+79161234567"] = 99
        tree["added_tokens"] = [{"id": 100, "content": "ivan@example.com"}]
        found = scan_file("tokenizer.json", json.dumps(tree).encode(), local_secrets(None, []))
        assert sorted((one.location, one.kind) for one in found) == [
            ("added_tokens.0.content", "personal-data"),
            ("vocab", "personal-data"),
        ]

    def test_files_of_the_published_base_are_nobodys_data(self):
        text = b"call +7 916 123-45-67"
        assert scan_file("a.txt", text, local_secrets(None, []), published=True) == []
        assert scan_file("a.txt", text + b" " + SECRETS["AWS key"].encode(), local_secrets(None, []), published=True)

    def test_what_safetensors_say_of_themselves(self, tmp_path):
        from safetensors.torch import save_file

        file = tmp_path / "m.safetensors"
        save_file({"a": torch.zeros(2)}, file, metadata={"format": "pt", "made": "/home/ivan/x"})
        findings = scan_file(file.name, file, local_secrets(None, []))
        assert [(one.kind, one.location) for one in findings] == [("path", "made")]

    def test_a_clean_run_is_clean(self, run):
        done = push("--dry-run", "--license", "mit")
        assert done.exit_code == 0 and "error" not in done.stderr


class TestRefusals:
    def refused(self, hub, kind: str, said: str, *arguments: str, **kwargs):
        """Refused by a line that says why, before anything is made on the Hub; sent when insisted on."""
        done = push(*arguments, **kwargs)
        assert done.exit_code == 1 and re.search(rf"{said}.* \[{kind}\]", done.stderr), done.stderr
        assert f"nothing was sent; --allow {kind} would send it all the same" in done.stderr
        assert REPO not in hub.repos and not hub.stored_bytes()
        assert push(*arguments, "--allow", kind, **kwargs).exit_code == 0
        assert hub.repos[REPO].private

    def test_secret(self, run, hub):
        template = run.adapter / "chat_template.jinja"
        template.write_text(template.read_text() + "{# " + TOKEN + " #}")
        self.refused(hub, "secret", r"chat_template\.jinja: .*Hugging Face token hf_Q…")

    def test_personal_data(self, run, hub):
        file = run.adapter / "tokenizer_config.json"
        file.write_text(json.dumps({**json.loads(file.read_bytes()), "note": "звонить Ивану, тел. 8 916 123-45-67"}))
        self.refused(hub, "personal-data", r"tokenizer_config\.json: note: phone 8 …")

    def test_folder_of_a_base_without_a_name(self, run, hub):
        self.refused(hub, "path", "--base OWNER/NAME says what", "--license", "mit", base=None)

    def test_licence_that_forbids(self, run, hub):
        hub.put(BASE, {"README.md": b"---\nlicense: cc-by-nc-nd-4.0\n---\n"})
        self.refused(hub, "license", "cc-by-nc-nd-4.0 forbids passing on a changed model", "--license", "mit")

    def test_licence_of_its_own(self, run, hub):
        own = b"---\nlicense: other\nlicense_name: yandexgpt\nlicense_link: LICENSE\n---\n"
        hub.put(BASE, {"README.md": own})
        self.refused(hub, "license", "yandexgpt .*/acme/tiny-base/blob/main/LICENSE. is not one that")

    def test_licence_unknown(self, run, hub):
        hub.put(BASE, {"README.md": b"# no metadata\n"})
        self.refused(hub, "license", "the licence of acme/tiny-base is unknown: --license ID states it")

    def test_unfinished(self, run, hub):
        run.update_manifest(status="running")
        self.refused(hub, "gates", "runs/done is unfinished")

    def test_parity(self, run, hub):
        run.update_manifest(parity={"prompts": 5, "differing": [3]})
        self.refused(hub, "gates", "1 of 5 held-out prompts render otherwise")

    def test_drift(self, merged, hub):
        drift = {"tokens": 247, "adapter_loss": 6.28, "max_drift": 0.06}
        drift["16bit"] = {"mean_kl": 0.2, "max_kl": 1.0, "top1": 0.7, "loss": 7.0}
        merged.update_manifest(merge={"target": "16bit", "dtype": "float32", "drift": drift, "passed": False})
        self.refused(hub, "gates", r"mean KL 0\.2 is above 0\.06", "--merged")

    def test_merge_that_lost_the_gain(self, merged, hub):
        drift = {"tokens": 247, "adapter_loss": 6.28, "max_drift": 0.3}
        drift["16bit"] = {"mean_kl": 0.2, "max_kl": 1.0, "top1": 0.7, "loss": 7.0}
        fault = "held-out loss 7.000 keeps 0.010 of the 0.600 nats that training gained"
        saved = {"target": "16bit", "dtype": "float32", "drift": drift, "passed": False, "fault": fault}
        merged.update_manifest(merge=saved)
        self.refused(hub, "gates", "the merged model drifted: held-out loss 7.000 keeps 0.010", "--merged")


class TestLicences:
    @pytest.mark.parametrize(
        ("name", "free"),
        [("apache-2.0", True), ("mit", True), ("cc-by-sa-4.0", True), ("agpl-3.0", True), ("openrail++", True),
         ("llama3.1", True), ("gemma", True), ("cc-by-nc-4.0", True), ("cc-by-nd-4.0", False),
         ("cc-by-nc-nd-4.0", False), ("other", False), ("apple-amlr", False)],
    )  # fmt: skip
    def test_verdicts(self, name, free):
        assert (Licence(name).objection is None) == free

    def test_conditions_are_told(self, run, hub):
        hub.put(BASE, {"README.md": b"---\nlicense: llama3.1\n---\n"})
        done = push("--public")
        assert done.exit_code == 0 and "its name begins with Llama" in done.stderr
        assert "Built with Llama." in hub.files(REPO)["README.md"].decode()

    def test_found_beside_the_weights(self, tmp_path):
        assert licence_beside(tmp_path) is None
        (tmp_path / "LICENSE.txt").write_text("LLAMA 3.1 COMMUNITY LICENSE AGREEMENT\n")
        assert licence_beside(tmp_path).id == "llama3.1"
        (tmp_path / "README.md").write_text("---\nlicense: Apache-2.0\n---\n")
        assert licence_beside(tmp_path).id == "apache-2.0"


class TestHub:
    """What goes wrong on the way, and that it ends in one line or is got over."""

    def line(self, done, said: str) -> None:
        assert done.exit_code == 2 and done.stdout == ""
        [line] = [line for line in done.stderr.splitlines() if not line.startswith("note: ")]
        assert line.startswith("error: ") and re.search(said, line), line
        assert TOKEN not in line

    @pytest.mark.parametrize(
        "name", ["natasha", "ivan/", "ivan/a/b", "иван/наташа", "ivan/-x", "ivan/a--b", "ivan/x.git"]
    )
    def test_bad_name(self, run, hub, name):
        self.line(push(repo=name), "is no name on the Hub: write OWNER/NAME")
        assert not any(path.startswith("/api/models") for _, path, _ in hub.requests)

    def test_offline(self, run, hub, monkeypatch):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        self.line(push(), "HF_HUB_OFFLINE is set: unset it to push")

    def test_no_token(self, run, hub, monkeypatch):
        monkeypatch.delenv("HF_TOKEN")
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", "nowhere")
        self.line(push(), "no Hugging Face token")

    def test_unknown_token(self, run, hub, monkeypatch):
        monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 34)
        self.line(push(), "the Hub does not take this token")

    def test_token_that_may_only_read(self, run, hub, monkeypatch):
        monkeypatch.setenv("HF_TOKEN", "hf_read")
        self.line(push(repo="reader/natasha"), "the token of reader may only read")

    def test_no_right(self, run, hub):
        self.line(
            push(repo="acme/natasha"), "does not let this token do that: the Hub answers 403: You don't have the rights"
        )

    def test_metadata_that_the_hub_does_not_know(self, run, hub):
        self.line(push("--license", "like Apache"), 'the Hub refuses: Invalid metadata in README.md. - "license" must')

    def test_organisation(self, run, hub):
        assert push(repo="sanctuary/natasha").exit_code == 0

    def test_nothing_merged_yet(self, run, hub):
        self.line(push("--merged"), "no merged model yet: govor merge runs/done")
        self.line(push("--gguf"), "no GGUF file in exports/: govor export runs/done --to gguf")

    def test_tuned_whole(self, merged, hub):
        shutil.rmtree(merged.adapter)
        self.line(push(), "was tuned whole and has no adapter: push it with --merged")

    def test_repository_with_something_else(self, run, hub):
        hub.put(REPO, {"README.md": b"# mine\n", "data.csv": b"1\n"}, private=True)
        self.line(push(), r"already holds something else \(README.md, data.csv\): choose another name, or --force")
        assert push("--force").exit_code == 0
        assert hub.files(REPO)["data.csv"] == b"1\n" and b"A LoRA adapter" in hub.files(REPO)["README.md"]

    def test_own_repository_is_brought_up_to_date(self, run, hub):
        push()
        assert push("--source", "dialogues").exit_code == 0
        hub.put(REPO, {"README.md": b"# edited on the web\n"})
        self.line(push(), "already holds something else")

    def test_others_see_no_more_than_was_asked_for(self, run, hub):
        hub.put(REPO, {})
        self.line(push(), "is public on the Hub: push with --public, change its settings")
        hub.repos.pop(REPO)
        hub.force_private = True
        self.line(push("--public"), "was made private by its owner's settings, nothing was sent")
        assert not hub.stored_bytes()

    def test_conflict(self, run, hub):
        hub.fail("POST", "/preupload/", call=lambda: hub.put(REPO, {"other.txt": b"x"}))
        self.line(push(), "has changed during the upload")
        assert set(hub.files(REPO)) == {"other.txt"}

    def test_409_on_the_commit(self, run, hub):
        hub.fail("POST", "/commit/", status=409, error="conflict")
        self.line(push(), "has changed during the upload")

    def test_made_meanwhile(self, run, hub):
        hub.fail("POST", "/repos/create", after="done")  # it is made, the answer is lost
        assert push().exit_code == 0

    @pytest.mark.parametrize(
        "path", ["/whoami", f"/api/models/{REPO}$", "/create", "/validate", "/preupload", "/batch", "/commit"]
    )
    @pytest.mark.parametrize("status", [500, 503])
    def test_5xx_is_got_over(self, run, hub, path, status):
        hub.fail("POST", path, status=status)
        hub.fail("GET", path, status=status)
        assert push().exit_code == 0
        assert hub.slept and set(hub.files(REPO)) >= {"adapter_model.safetensors", "README.md"}

    def test_429_waits_as_long_as_it_is_told(self, run, hub):
        hub.fail("POST", "/commit/", status=429, headers={"Retry-After": "7"})
        hub.fail("PUT", "/store/", status=429, headers={"Retry-After": "5"})
        assert push().exit_code == 0
        assert {6, 8} <= set(hub.slept)

    def test_429_for_an_hour_is_said(self, run, hub):
        hub.fail("POST", "/commit/", times=9, status=429, headers={"Retry-After": "3600"})
        self.line(
            push(), r"no more requests for now \(429\), for 3600 s; run it again: what has arrived is not sent twice"
        )
        assert max(hub.slept, default=0) <= LONGEST_PAUSE

    def test_5xx_for_ever_is_said(self, run, hub):
        hub.fail("POST", "/commit/", times=99, status=503, error="down for repairs")
        done = push()
        assert (
            done.exit_code == 2
            and "the Hub answers 503: down for repairs; run it again" in done.stderr.splitlines()[-1]
        )

    def test_cut_connection_is_got_over(self, run, hub):
        hub.fail("PUT", "/store/", after=70_000)
        hub.fail("POST", "/commit/", after=100)
        assert push().exit_code == 0
        assert hub.files(REPO)["adapter_model.safetensors"] == (run.adapter / "adapter_model.safetensors").read_bytes()

    def test_commit_whose_answer_was_lost_is_not_made_twice(self, run, hub):
        hub.fail("POST", "/commit/", after="done")
        assert push().exit_code == 0
        assert hub.sent("POST", "/commit/") == 1
        assert run.manifest()["pushed"][REPO]["commit"] == hub.repos[REPO].head

    def test_broken_upload_goes_on_where_it_was(self, merged, hub):
        first, second = sorted(merged.merged.glob("*.safetensors"))
        from train.core.files import sha256

        hub.fail("PUT", sha256(second), times=999, after=1000)
        broken = push("--merged")
        assert broken.exit_code == 2 and "connection to the Hub broke off" in broken.stderr.splitlines()[-1]
        assert sha256(first) in hub.large and sha256(second) not in hub.large and hub.files(REPO) == {}
        hub.faults.clear()
        before = hub.stored_bytes()
        assert push("--merged").exit_code == 0
        assert hub.stored_bytes() - before == second.stat().st_size
        assert hub.files(REPO)[first.name] == first.read_bytes()

    def test_signed_addresses_are_not_logged(self, run, hub):
        hub.fail("PUT", "/store/", times=99, status=503)
        done = push()
        assert done.exit_code == 2 and "X-Amz-Signature" not in done.stderr


class TestNothingComesToLifeInTheCard:
    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("![x](https://evil.example/t.png)", r"!\[x\](https\://evil.example/t.png)"),
            ("[вход](javascript:alert)", r"\[вход\](javascript:alert)"),
            ("<img src=x onerror=y>", "&lt;img src=x onerror=y&gt;"),
            ("&#60;script&#62;", "&amp;#60;script&amp;#62;"),
            ("# голова", r"\# голова"),
            ("1. раз", r"1\. раз"),
            ("--- ", r"\--- "),
            ("=== ", r"\=== "),
            ("```", r"\`\`\`"),
            ("**да** _нет_ ~~нет~~", r"\*\*да\*\* \_нет\_ \~\~нет\~\~"),
            ("$$x$$ | a", r"\$\$x\$\$ \| a"),
            ("www.evil.example a@b.ru", r"www\.evil.example a\@b.ru"),
            ("\\<b>", r"\\&lt;b&gt;"),
            ("Привет! Как дела — хорошо?", "Привет! Как дела — хорошо?"),
        ],
    )
    def test_texts(self, text, shown):
        assert as_text(text) == shown

    def test_sample_answers(self, run):
        """Behind a line break they would begin a heading, a table or the metadata of the card."""
        evil = "Да.\n\n---\nlicense: mit\n---\n\n## Licence\n\n![x](https://evil.example/x.png)<script>"
        page = f"# done\n\n## Кто я?\n\n**Base**\n\n{evil}\n\n**Tuned**\n\n{evil}\n"
        run.samples_file.write_text(page, encoding="utf-8")
        card = push("--dry-run", "--samples").stdout
        assert card.count("## Licence") - card.count("\\## Licence") - card.count(" ## Licence") == 1
        assert "https\\://evil.example" in card and "![x]" not in card and "<script>" not in card
        assert card.count("\n---\n") <= 2

    def test_an_eval_without_prompts(self, run):
        config = run.config_file.read_text(encoding="utf-8")
        run.config_file.write_text(config[: config.index("prompts:")], encoding="utf-8")
        run.samples_file.write_text("# done: answers before and after training\n\nSampled now.\n", encoding="utf-8")
        done = push("--dry-run")
        assert done.exit_code == 0, done.stderr


class TestTheBaseThatAnAdapterNames:
    @pytest.mark.parametrize(
        "named", ["/home/ivan/models/base", "C:\\Users\\ivan\\base", "../base", "hf_" + "A1b2" * 9]
    )
    def test_it_is_rewritten(self, run, named):
        file = run.adapter / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": named}))
        contents = {"adapter_config.json": with_public_base("adapter_config.json", file, run, BASE)}
        assert json.loads(contents["adapter_config.json"])["base_model_name_or_path"] == BASE
        assert file_objections(run, contents, None) == []

    def test_it_is_checked_where_it_cannot_be(self, run):
        file = run.adapter / "adapter_config.json"
        secret = "hf_" + "A1b2" * 9
        file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": secret}))
        [found] = [one for one in file_objections(run, {file.name: file}, None) if one.kind == "secret"]
        assert "base_model_name_or_path" in found.text and secret not in found.text
