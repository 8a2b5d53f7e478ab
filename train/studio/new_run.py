"""A training from the page: a config of a few options, what it needs by `govor plan`, and `govor train`.

Also chats that are dropped on the page: who takes part in an export, and `govor collect` with its account.
"""

import asyncio
import json
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import yaml
from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from train.core.config import load_config
from train.core.errors import GovorError
from train.core.files import require_new, write_whole
from train.core.runs import RUNS
from train.serving.api_errors import ApiError, read_request
from train.studio.commands import Commands, command_line
from train.studio.routing import StudioRoute, require_json
from train.studio.rows_file import find_files

HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
PLANNED = 300  # seconds that a plan may take
MOST_UPLOADED = 2 << 30
"""Bytes of an export; a larger one is collected in the terminal."""


class NewRun(BaseModel):
    """The form of the page New run."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(pattern=r"^\w[\w.-]*$", description="letters, digits, `_`, `-` and `.`")
    rows: str
    """Id of a file of rows."""
    base: str
    method: Literal["lora", "qlora", "full"] = "lora"
    r: int = Field(16, ge=1)
    num_train_epochs: float = Field(3, gt=0)
    max_steps: int | None = Field(None, ge=1)
    learning_rate: float = Field(2e-4, gt=0)
    max_length: int = Field(2048, ge=1)
    too_long: Literal["error", "drop", "truncate", "split"] = "error"
    use_cpu: bool = False
    prompts: list[str] = []


class Collected(BaseModel):
    """Which of those in an export is the persona."""

    model_config = ConfigDict(extra="forbid")
    upload: str = Field(pattern=r"^[0-9a-z_]+$")
    persona: str = Field(min_length=1)
    scrub: bool = True


class PlanAsked(NewRun):
    """The form, and the card it is to fit."""

    gpu: str | None = None


def config_text(asked: NewRun, rows: Path, folder: Path) -> str:
    """The YAML of the form; options that stand at their defaults are left out."""
    training: dict[str, Any] = {
        "num_train_epochs": asked.num_train_epochs,
        "max_steps": asked.max_steps,
        "learning_rate": asked.learning_rate,
        "max_length": asked.max_length,
        "use_cpu": asked.use_cpu or None,
    }
    tree: dict[str, Any] = {
        "name": asked.name,
        "model": {"name_or_path": asked.base, **({"load_in_4bit": True} if asked.method == "qlora" else {})},
        "data": {"train_file": str(rows.relative_to(folder)), "too_long": asked.too_long},
        "lora": None if asked.method == "full" else {"r": asked.r, "lora_alpha": 2 * asked.r},
        "training": {key: value for key, value in training.items() if value is not None},
    }
    if asked.prompts:
        tree["prompts"] = asked.prompts
    return "# Written by the studio.\n" + yaml.safe_dump(tree, allow_unicode=True, sort_keys=False, width=120)


def find_bases(folder: Path) -> list[str]:
    """Bases to choose from: those in the project's folders, then the Hub ids whose shapes are known."""
    places = (folder, folder / "data", folder / ".bases", folder / "models")
    here = [path.parent for place in places for path in sorted(place.glob("*/config.json"))]
    known = yaml.safe_load((Path(__file__).parents[1] / "plan/bases.yaml").read_text(encoding="utf-8"))["bases"]
    return [*(str(path.relative_to(folder)) for path in here), *known]


class Uploads:
    """Exports that were dropped on the page, each in a folder of ours that goes with the studio."""

    def __init__(self) -> None:
        self._folder: Path | None = None

    def new(self, name: str) -> Path:
        """A path for an export of that name, of which only the ending is kept: formats are told by it."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="govor-export-"))
        ending = re.fullmatch(r".*?(\.[A-Za-z0-9]{1,8})?", Path(name).name)
        folder = Path(tempfile.mkdtemp(prefix="", dir=self._folder))
        return folder / f"export{(ending and ending[1]) or ''}"

    def find(self, id_: str) -> Path:
        """The export of that id; ApiError 404 where there is none."""
        found = sorted((self._folder / id_).iterdir()) if self._folder and (self._folder / id_).is_dir() else []
        if not found:
            raise ApiError(404, "this export is not here any more: drop it once more")
        return found[0]

    def close(self) -> None:
        """Remove them."""
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)


def new_routes(folder: Path, begun: Commands, uploads: Uploads) -> APIRouter:
    """Routes of the page New run, for one project folder."""
    routes = APIRouter(prefix="/studio/new", route_class=StudioRoute, include_in_schema=False)

    def rows_of(id_: str) -> Path:
        path = find_files([folder]).get(id_)
        if path is None:
            raise ApiError(404, f"{id_}: no such file of rows in {folder.resolve()}")
        return path

    def checked(asked: NewRun) -> str:
        """The config's text; what is wrong with it is a GovorError."""
        if asked.base not in find_bases(folder) and not HUB_ID.fullmatch(asked.base):
            raise GovorError(f"base {asked.base}: expected OWNER/NAME of the Hub, or a base that the page lists")
        return config_text(asked, rows_of(asked.rows), folder)

    @routes.get("")
    async def choices() -> Any:
        from train.plan.estimate import known_gpus

        return {"rows": list(find_files([folder])), "bases": find_bases(folder), "gpus": list(known_gpus())}

    @routes.post("/plan")
    async def plan(request: Request) -> Any:
        require_json(request)
        asked = read_request(PlanAsked, await request.body())
        return await asyncio.to_thread(_plan, checked(asked), folder, asked.gpu)

    @routes.post("/start")
    async def start(request: Request) -> Any:
        require_json(request)
        asked = read_request(NewRun, await request.body())
        text, taken = checked(asked), folder / RUNS / asked.name
        if taken.exists():
            raise GovorError(f"{taken} is there already: choose another name")
        configs = folder / "configs" if (folder / "configs").is_dir() else folder
        config = configs / f"{asked.name}.yaml"
        require_new(config)
        _require_valid(text)
        write_whole(config, [text], replace=False)
        return begun.start(["train", str(config.relative_to(folder))], folder, asked.name)

    @routes.post("/export")
    async def export(request: Request, name: str) -> Any:
        if request.headers.get("content-type") != "application/octet-stream":
            raise ApiError(415, "expected a body in application/octet-stream")
        path = uploads.new(name)
        size = 0
        with path.open("xb") as file:
            async for piece in _body(request):
                size += len(piece)
                if size > MOST_UPLOADED:
                    raise ApiError(413, "larger than 2 GB: collect it in the terminal with `govor collect`")
                file.write(piece)
        return {"upload": path.parent.name, "people": await asyncio.to_thread(_people, path)}

    @routes.post("/collect")
    async def collect(request: Request) -> Any:
        require_json(request)
        asked = read_request(Collected, await request.body())
        path = uploads.find(asked.upload)
        target = "data" if (folder / "data").is_dir() else "."
        words = ["collect", str(path), "--persona", asked.persona, "-o", target]
        words += [] if asked.scrub else ["--no-scrub"]
        return begun.start(words, folder)

    return routes


async def _body(request: Request) -> AsyncIterator[bytes]:
    async for piece in request.stream():
        yield piece


def _people(export: Path) -> list[dict[str, Any]]:
    """Who writes in an export, the most first."""
    from train.chats.telegram.participants import survey_exports

    writers = [who for who in survey_exports([export]).participants if who.messages]
    writers.sort(key=lambda who: -who.messages)
    return [{"id": who.id, "name": who.names[0] if who.names else "", "messages": who.messages} for who in writers[:50]]


def _require_valid(text: str) -> None:
    """ConfigError where the config is wrong."""
    with tempfile.TemporaryDirectory(prefix="govor-plan-") as aside:
        path = Path(aside) / "config.yaml"
        path.write_text(text, encoding="utf-8")
        load_config(path)


def _plan(text: str, folder: Path, gpu: str | None) -> dict[str, Any]:
    """`govor plan` of that config: {"config": text, "command", "plan": its JSON}; GovorError with what it says."""
    with tempfile.TemporaryDirectory(prefix="govor-plan-") as aside:
        path = Path(aside) / "config.yaml"
        path.write_text(text, encoding="utf-8")
        words = ["plan", str(path), "--json", *(["--gpu", gpu] if gpu else [])]
        try:
            done = subprocess.run(
                command_line(words), cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=PLANNED
            )
        except subprocess.TimeoutExpired:
            raise GovorError(f"the plan takes longer than {PLANNED} s: run govor plan in the terminal") from None
        if done.returncode not in (0, 1) or not done.stdout:
            error = done.stderr.decode("utf-8", "replace").strip().split("error: ")[-1]
            raise GovorError(error.replace(str(path), "config") or "govor plan has failed")
    command = shlex.join(["govor", *words]).replace(str(path), "CONFIG")
    return {"config": text, "command": command, "plan": json.loads(done.stdout)}
