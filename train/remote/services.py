"""Who answers at a URL: the known services, where their keys are found, what they take for a token."""

import os
import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from train.core.errors import ConfigError
from train.plan.estimate import prices

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Service(NamedTuple):
    """A service that answers chats, or a server of one's own."""

    name: str
    title: str
    base_url: str | None
    """Address of the API; None where it is built from project and location."""
    hosts: tuple[str, ...]
    """A URL on these hosts means this service."""
    keys: tuple[str, ...]
    """Environment variables with its key; the first that is set counts."""
    in_prices: str
    """Its name in the price table; empty where nothing is to be paid for a token."""


SERVICES = {
    service.name: service
    for service in (
        Service("local", "The local server", "http://127.0.0.1:8000/v1", (), ("GOVOR_API_KEY",), ""),
        Service("openai", "OpenAI", "https://api.openai.com/v1", ("openai.com",), ("OPENAI_API_KEY",), "OpenAI"),
        Service(
            "kimi",
            "Kimi",
            "https://api.moonshot.ai/v1",
            ("moonshot.ai", "moonshot.cn"),
            ("KIMI_API_KEY", "MOONSHOT_API_KEY"),
            "Kimi",
        ),
        Service("google", "Google's Gemini API", None, ("generativelanguage.googleapis.com",), (), "Google Vertex AI"),
        Service("vertex", "Google Vertex AI", None, ("googleapis.com",), (), "Google Vertex AI"),
    )
}


class TokenPrice(NamedTuple):
    """US dollars for a million tokens."""

    input: float
    output: float


class Endpoint(NamedTuple):
    """A model at a URL, and what it takes to ask it."""

    url: str
    model: str
    service: Service
    key: str | None
    price: TokenPrice | None
    """None where the price table has none."""

    @property
    def host(self) -> str:
        """Host and port, as people are told where their rows go."""
        return urlsplit(self.url).netloc.rpartition("@")[2]

    @property
    def is_here(self) -> bool:
        """Whether the server is on this machine."""
        return urlsplit(self.url).hostname in LOOPBACK


def service_of(url: str | None) -> Service:
    """The service whose host the URL names, else a server of one's own."""
    host = (urlsplit(url).hostname or "") if url else ""
    matches = (s for s in SERVICES.values() if any(host == known or host.endswith(f".{known}") for known in s.hosts))
    return next(matches, SERVICES["local"])


def find_model(text: str, folder: Path) -> Endpoint:
    """The model that `URL#MODEL`, `openai:MODEL` or `kimi:MODEL` names; as `find_endpoint`."""
    via, _, model = text.partition("#") if "#" in text else text.partition(":")
    if not model or ("#" not in text and not (via in SERVICES and SERVICES[via].base_url)):
        raise ConfigError(f"{text}: expected URL#MODEL, openai:MODEL or kimi:MODEL")
    return find_endpoint(via, model, folder, where=text)


def find_endpoint(via: str, model: str, folder: Path, where: str | None = None) -> Endpoint:
    """The model of that name at `via`, a URL or the name of a service; its key is looked for in `folder`/.env too.

    `where`: what the user wrote, for the errors. Opens no connection. ConfigError where the URL is none, or a hosted
    service has no key.
    """
    where = where or f"--via {via}"
    named = SERVICES.get(via)
    url = (named.base_url if named else via) or ""
    if "://" not in url and re.fullmatch(r"[\w.-]+:\d+(/.*)?", url):
        url = f"http://{url}"
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{where}: expected http://…, https://… or one of openai, kimi")
    if parts.username or parts.password or parts.query:
        raise ConfigError("a URL with a password or a query: keys belong into the environment or .env")
    url = url.rstrip("/") if parts.path.strip("/") else f"{url.rstrip('/')}/v1"
    service = service_of(url)
    key, variable = find_key(service, folder)
    if key is None and service.name != "local":
        raise ConfigError(f"no key for {service.title}: set {variable} in the environment or in .env")
    return Endpoint(url, model, service, key, price_of(service, model))


def price_of(service: Service, model: str) -> TokenPrice | None:
    """What the table gives for asking that model, whose name may end in a date; None where it gives nothing."""
    for entry in prices(0):
        known = entry.model and re.fullmatch(rf"{re.escape(entry.model)}(-\d{{4}}-\d\d-\d\d)?", model)
        if entry.service == service.in_prices and known and entry.input is not None and entry.output is not None:
            return TokenPrice(entry.input, entry.output)
    return None


def find_key(service: Service, folder: Path) -> tuple[str | None, str]:
    """(key, its variable) from the environment, else from the folder's .env; else (None, the possible variables)."""
    env_file = read_env(folder / ".env")
    for name in service.keys:
        key = os.environ.get(name, "").strip() or env_file.get(name, "").strip()
        if key and not re.fullmatch(r"[!-~]+", key):
            raise ConfigError(f"{name} holds characters that no key has: copy it again")
        if key:
            return key, name
    return None, " or ".join(service.keys)


def read_env(path: Path) -> dict[str, str]:
    """The NAME=VALUE lines of a file, with or without `export` and quotes; other lines are ignored."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return {}
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text: save it as UTF-8") from None
    values = {}
    for line in text.split("\n"):
        name, is_pair, value = line.strip().removeprefix("export ").partition("=")
        if not is_pair or not name.strip().isidentifier():
            continue
        value = value.strip()
        quoted = re.match(r"""(["'])(.*?)\1\s*(#.*)?$""", value)
        values[name.strip()] = quoted[2] if quoted else re.split(r"\s#|^#", value)[0].strip()
    return values


def without_keys(text: str, key: str | None) -> str:
    """The text without the key, also where a server has cut it short, and in one line."""
    text = " ".join(text.split())
    if key:
        text = text.replace(key, "***")
    return re.sub(r"\bsk-[\w*.-]{4,}", "***", text)
