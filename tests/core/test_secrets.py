"""The forms of tokens, keys and passwords: found whole, near misses not, in time in proportion to the text.

Tokens here are put together when the test runs, so that no file of this repository holds one.
"""

import base64
import importlib.metadata
import random
import string
import subprocess
import time

import pytest

from tests.conftest import REPOSITORY
from train.core.secrets import FORMS, find_secrets, mask_secrets

LETTERS = string.ascii_letters + string.digits
HEX = "0123456789abcdef"
README = ("torch", "transformers", "peft", "trl", "datasets", "accelerate", "openai", "fastapi", "pydantic", "rich")
"""Packages whose READMEs hold no secret."""


def made(length: int, letters: str = LETTERS, seed: int = 0) -> str:
    """Random letters, a digit and a letter of either case among them."""
    draw = random.Random(f"{length} {letters} {seed}")
    return "".join(draw.choice(letters) for _ in range(length - 3)) + "".join(c for c in "a1B" if c in letters)[
        :3
    ].ljust(3, "7")


def kinds(text: str) -> list[str]:
    return [secret.kind for secret in find_secrets(text)]


def three(make) -> list[str]:
    return [make(seed) for seed in (1, 2, 3)]


CASES = {
    "VK token": (three(lambda s: "vk1.a." + made(180, seed=s)), ["vk1.a." + made(20), "vk2.a." + made(180)]),
    "Groq key": (three(lambda s: "gsk_" + made(52, seed=s)), ["gsk_" + made(40), "gsk_" + made(60)]),
    "xAI key": (three(lambda s: "xai-" + made(80, seed=s)), ["xai-" + made(60), "xai-" + made(90)]),
    "Perplexity key": (three(lambda s: "pplx-" + made(48, seed=s)), ["pplx-" + made(40), "pplx-70b-online"]),
    "Replicate token": (three(lambda s: "r8_" + made(37, seed=s)), ["r8_" + made(30), "xr8_" + made(37)]),
    "NVIDIA key": (three(lambda s: "nvapi-" + made(64, seed=s)), ["nvapi-" + made(50), "nvapi-" + made(70)]),
    "Discord token": (
        three(lambda s: f"MT{made(24, seed=s)}.{made(6, seed=s)}.{made(38, seed=s)}"),
        [f"MT{made(24)}.{made(5)}.{made(38)}", f"AT{made(24)}.{made(6)}.{made(38)}"],
    ),
    "Discord webhook": (
        three(lambda s: f"https://discord.com/api/webhooks/{made(18, '123456789', s)}/{made(68, seed=s)}"),
        ["https://discord.com/api/webhooks/ID/TOKEN", "https://discord.com/channels/123456789012345678/" + made(68)],
    ),
    "SendGrid key": (
        three(lambda s: f"SG.{made(22, seed=s)}.{made(43, seed=s)}"),
        [f"SG.{made(22)}.{made(40)}", f"SG.{made(20)}.{made(43)}"],
    ),
    "Mailgun key": (
        three(lambda s: ("key-" + made(32, HEX, s)) if s < 3 else f"{made(32, HEX)}-{made(8, HEX)}-{made(8, HEX)}"),
        ["key-" + made(30, HEX), "monkey-" + made(32, HEX)],
    ),
    "Twilio key": (three(lambda s: "SK" + made(32, HEX, s)), ["SK" + made(30, HEX), "AC" + made(32, HEX)]),
    "Slack webhook": (
        three(lambda s: f"https://hooks.slack.com/services/T{made(9, HEX.upper(), s)}/B0{s}234567/{made(24, seed=s)}"),
        ["https://hooks.slack.com/services/T/B/X", "https://api.slack.com/messaging/webhooks"],
    ),
    "Slack token": (
        three(lambda s: f"xapp-1-A{made(10, 'ABC123', s)}-{made(13, '123456789', s)}-{made(64, HEX, s)}"),
        ["xapp-1-A123", f"xapp-{made(64, HEX)}"],
    ),
    "DigitalOcean token": (
        [f"do{kind}_v1_{made(64, HEX)}" for kind in "opr"],
        [f"dop_v1_{made(60, HEX)}", f"dox_v1_{made(64, HEX)}"],
    ),
    "Databricks token": (
        [*three(lambda s: "dapi" + made(32, HEX, s)), "dapi" + made(32, HEX) + "-2"],
        ["dapi" + made(30, HEX), "dapi" + made(36, HEX)],
    ),
    "Azure key": (
        [
            "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=" + made(86) + "==",
            "aB3" + "8Q~" + made(34),
            made(52) + "JQQJ99" + made(26),
            "https://a.blob.core.windows.net/c?sv=2024&sig=" + made(43) + "%3D",
        ],
        ["AccountKey=" + made(40) + "==", "AccountKey=<key>", "https://a.example/?sig=short"],
    ),
    "W&B key": (
        ["wandb_v1_" + made(77), "WANDB_API_KEY=" + made(40, HEX), "wandb login " + made(40, HEX)],
        ["wandb login " + made(38, HEX), "commit " + made(40, HEX)],
    ),
    "private key": (
        [f"-----BEGIN {kind}PRIVATE KEY{end}-----" for kind, end in (("", ""), ("RSA ", ""), ("PGP ", " BLOCK"))],
        ["-----BEGIN PGP PUBLIC KEY BLOCK-----", "-----BEGIN CERTIFICATE-----"],
    ),
    "Authorization header": (
        [
            "Authorization: Bearer " + made(40),
            '"authorization": "Bearer ' + made(24) + '"',
            "Authorization: Basic " + base64.b64encode(b"ivan:hunter").decode(),
        ],
        ["Authorization: Bearer YOUR_API_KEY_HERE", "Authorization: Basic credentials"],
    ),
    "Telegram bot token": (
        [
            "12345678:AA" + made(33),
            f"https://api.telegram.org/bot1234567890:AA{made(33)}/getMe",
            f"t.me?x=bot123456789:AA{made(33)}",
        ],
        ["1234567890:AA" + made(20), "1234567890:BB" + made(33)],
    ),
    "password or key": (
        [
            "token: " + made(20),
            'BOT_TOKEN="' + made(20) + '"',
            "client_secret = " + made(24),
            "password: " + made(8),
            "пароль: " + made(10),
            "accessToken=" + made(20),
        ],
        ["max_tokens: 4096000", "token = tokenizer.decode2(x)", "api_key: your_api_key_123", "tokens: abc12345678"],
    ),
    "password in an address": (
        ["postgres://ivan:" + made(8) + "@db.example", "https://a:" + made(5) + "@b.example/c",
         "redis://x:" + made(12) + "@h:6379"],
        ["https://user:password@host", "https://example.com:8080/a@b"],
    ),
    "Hugging Face token": (three(lambda s: "hf_" + made(34, seed=s)), ["hf_" + made(20), "hf_hub_download"]),
    "GitHub token": (three(lambda s: "ghp_" + made(36, seed=s)), ["ghp_" + made(20), "ghx_" + made(36)]),
}  # fmt: skip


@pytest.mark.parametrize("kind", CASES)
def test_tokens_and_near_misses(kind):
    tokens, misses = CASES[kind]
    assert len(tokens) >= 3 and len(misses) >= 2
    for token in tokens:
        for text in (token, f"see {token} here", f'"{token}"\n', f"a\n{token}\nb"):
            assert kinds(text) == [kind], (token, kinds(text))
        assert made(10) not in mask_secrets(token) or kind == "private key"
    for miss in misses:
        assert kind not in kinds(f"see {miss} here"), miss


def test_every_form_is_tried():
    """Here or in tests/exports/test_push.py, and each says where its form comes from."""
    elsewhere = {"OpenAI or Anthropic key", "GitLab token", "AWS key", "Google key", "Yandex key", "PyPI or npm token",
                 "Stripe key", "signed web token"}  # fmt: skip
    assert {form.kind for form in FORMS} == {*CASES, *elsewhere}
    assert all(form.source and form.literals for form in FORMS)


INVENTED = "tests/chats/privacy_kinds"
"""Files of invented personal data, tokens among it."""


def test_nothing_is_found_where_there_is_none():
    command = ["git", "ls-files", "-z"]
    names = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.strip("\0")
    texts = {name: (REPOSITORY / name).read_bytes().decode(errors="replace") for name in names.split("\0")
             if (REPOSITORY / name).is_file() and not name.startswith(INVENTED)}  # fmt: skip
    for name in README:
        readme = importlib.metadata.metadata(name)
        texts[name] = str(readme.get_payload() or readme["Description"])
        assert len(texts[name]) > 1000
    found = {name: [text[s.start : s.end][:12] for s in find_secrets(text)] for name, text in texts.items()}
    assert {name: secrets for name, secrets in found.items() if secrets} == {}


UNITS = ("abc.", "a-", "a@", "abc@abc.", "password=", "api_key=", "token=1a", "a://", "://a:", "eyJ.", "wandb ", "key-",
         "Authorization: Bearer ", "?sig=A", "a0Q~", "sk-a-", "t1.", "xox")  # fmt: skip


@pytest.mark.alone
@pytest.mark.parametrize("unit", UNITS)
def test_time_grows_with_the_text(unit):
    def seconds(size: int) -> float:
        text = unit * (size // len(unit))
        began = time.perf_counter()
        list(find_secrets(text))
        return time.perf_counter() - began

    small, large = seconds(300_000), seconds(1_200_000)
    assert large < 2 if unit == "abc." else large < 6
    assert large < 8 * small + 0.2
