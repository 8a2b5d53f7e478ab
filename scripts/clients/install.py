"""The clients, and their installation: each in a folder of its own, at the version that was tried last."""

import json
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY / ".clients"


@dataclass(frozen=True)
class Client:
    """A program that people use with OpenAI's API."""

    name: str
    title: str
    packages: tuple[str, ...]
    """Names of its packages with versions; the first one's is shown. None: a program that the machine has."""
    program: str
    """Its file in programs/."""

    @property
    def folder(self) -> Path:
        return FOLDER / self.name

    @property
    def uses_node(self) -> bool:
        return self.program.endswith(".mjs")

    def command(self, programs: Path) -> list[str]:
        """What tries it."""
        if self.uses_node:  # Node looks for packages beside the program
            for file in (programs / "attempt.mjs", programs / self.program):
                shutil.copy(file, self.folder)
            return ["node", str(self.folder / self.program)]
        if not self.packages:
            return [sys.executable, str(programs / self.program), _chromium()]
        return [str(self.folder / "bin/python"), str(programs / self.program)]


CLIENTS = {
    client.name: client
    for client in (
        Client("openai-node", "openai-node", ("openai@7.55.0", "zod@4.6.7"), "try_openai_node.mjs"),
        Client("openai-cli", "`openai` command line", ("openai==1.109.1",), "try_openai_cli.py"),
        Client("ai-sdk", "Vercel AI SDK", ("@ai-sdk/openai@4.0.118", "ai@7.0.173", "zod@4.6.7"), "try_ai_sdk.mjs"),
        Client(
            "ai-sdk-compatible", "Vercel AI SDK, openai-compatible",
            ("@ai-sdk/openai-compatible@3.0.92", "ai@7.0.173", "zod@4.6.7"), "try_ai_sdk_compatible.mjs",
        ),
        Client("langchain", "LangChain", ("langchain-openai==1.7.4",), "try_langchain.py"),
        Client(
            "llama-index", "LlamaIndex",
            ("llama-index-llms-openai==0.8.3", "llama-index-llms-openai-like==0.8.1"), "try_llama_index.py",
        ),
        Client("litellm", "LiteLLM", ("litellm==1.110.2",), "try_litellm.py"),
        Client("llm", "simonw/llm", ("llm==0.36",), "try_llm.py"),
        Client("openai-agents", "OpenAI Agents SDK", ("openai-agents==0.24.0",), "try_openai_agents.py"),
        Client("instructor", "instructor", ("instructor==1.17.0",), "try_instructor.py"),
        Client("dspy", "DSPy", ("dspy==3.4.1",), "try_dspy.py"),
        Client("pydantic-ai", "pydantic-ai", ("pydantic-ai-slim[openai]==2.68.0",), "try_pydantic_ai.py"),
        Client("promptfoo", "promptfoo", ("promptfoo@0.121.20",), "try_promptfoo.mjs"),
        Client("page", "a page in Chromium", (), "try_page.py"),
    )
}  # fmt: skip


def install(client: Client) -> None:
    """Install a client that is not there yet; one that was half installed is taken up again."""
    stamp = client.folder / "installed"
    client.folder.mkdir(parents=True, exist_ok=True)
    if stamp.exists() and stamp.read_text(encoding="utf-8").split() in ([], list(client.packages)):
        return
    if client.packages:
        print(f"installing {client.title} …", flush=True)
    if client.uses_node:
        (client.folder / "package.json").write_text('{"private": true, "type": "module"}', encoding="utf-8")
        command = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", *client.packages]
        subprocess.run(command, cwd=client.folder, check=True)
    elif client.packages:
        venv.create(client.folder, with_pip=False)
        command = [sys.executable, "-m", "pip", "--python", str(client.folder / "bin/python"), "install", "--quiet"]
        subprocess.run([*command, "--disable-pip-version-check", *client.packages], check=True)
    else:
        _chromium()
    stamp.write_text(" ".join(client.packages), encoding="utf-8")


def version_of(client: Client) -> str:
    """The installed version of what the client is called after."""
    if not client.packages:
        answer = subprocess.run([_chromium(), "--version"], capture_output=True, text=True, check=True)
        return answer.stdout.split()[1]
    if client.uses_node:
        package = client.packages[0].rpartition("@")[0]
        return str(json.loads((client.folder / "node_modules" / package / "package.json").read_bytes())["version"])
    package = client.packages[0].partition("=")[0].partition("[")[0]
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    command = [client.folder / "bin/python", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _chromium() -> str:
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        sys.exit("error: no Chromium here: apt-get install chromium")
    return program
