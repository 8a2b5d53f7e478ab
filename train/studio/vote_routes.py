"""Routes of the page Votes: comparisons beside the runs, each with the ballot of `govor vote`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request

from train.remote.answers import FOLDER
from train.remote.ballot import Voting, add_ballot, open_voting
from train.serving.api_errors import ApiError
from train.studio.routing import StudioRoute
from train.studio.run_list import is_text


def find_comparisons(folders: Sequence[Path]) -> dict[str, Path]:
    """Id → folder of a comparison in the project folders; a link that leads out is passed over."""
    found: dict[str, Path] = {}
    for root in (folder / FOLDER for folder in folders):
        for path in sorted(root.iterdir()) if root.is_dir() else ():
            inside = is_text(path.name) and path.resolve().parent == root.resolve()
            if inside and (path / "answers.jsonl").is_file() and not (path / "answers.jsonl").is_symlink():
                same = sum(id_ == path.name or id_.startswith(f"{path.name}~") for id_ in found)
                found[f"{path.name}~{same + 1}" if same else path.name] = path
    return found


def vote_routes(folders: Sequence[Path]) -> APIRouter:
    """A list of comparisons, and of each what its page asks for: as with `govor vote`, no model is named before."""
    routes = APIRouter(prefix="/studio/votes", route_class=StudioRoute, include_in_schema=False)
    ballot = APIRouter(prefix="/{id_}", route_class=StudioRoute, include_in_schema=False)

    @contextmanager
    def opened(request: Request) -> Iterator[Voting]:
        """For one request alone, so that `govor vote` can go on with it at any time."""
        id_ = request.path_params["id_"]
        folder = find_comparisons(folders).get(id_)
        if folder is None:
            raise ApiError(404, f"{id_}: no such comparison in the studio's folders")
        with open_voting(folder) as voting:
            yield voting

    @routes.get("")
    async def comparisons() -> Any:
        return {"comparisons": [{"id": id_, "path": str(path)} for id_, path in find_comparisons(folders).items()]}

    add_ballot(ballot, opened)
    routes.include_router(ballot)
    return routes
