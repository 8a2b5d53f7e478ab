"""Ray's Jobs API and its list of nodes, over HTTP.

Nothing of Ray is imported. Its own client waits for an answer without a limit of time, so that a head that hangs would
hold up all jobs, and this way Ray can have an environment of its own.
"""

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from train.core.errors import MachineError

ANSWER_WITHIN = 15.0
"""Seconds that Ray has for an answer. It takes five for its first submission."""
AGAIN_AFTER = 5.0
"""Seconds for which Ray is left alone where it did not answer."""
WAITING, RUNNING = "PENDING", "RUNNING"
"""The statuses of a submission that is not over."""


class UnreachableError(MachineError):
    """Ray does not answer, or not yet: whether it has done what it was asked is not known."""


class RayApi:
    """What is asked of a cluster. MachineError where it refuses."""

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self._silent_until = 0.0

    def job(self, id_: str) -> dict[str, Any] | None:
        """What Ray knows of a submission; None where it knows nothing."""
        found: dict[str, Any] | None = self._ask("GET", f"/api/jobs/{quote(id_)}")
        return found

    def jobs(self) -> list[dict[str, Any]]:
        """All submissions."""
        found: list[dict[str, Any]] = self._ask("GET", "/api/jobs/") or []
        return found

    def submit(self, id_: str, entrypoint: str, **fields: Any) -> None:
        """Submit a shell command."""
        self._ask("POST", "/api/jobs/", {"submission_id": id_, "entrypoint": entrypoint, **fields})

    def stop(self, id_: str) -> None:
        """Have a submission ended: SIGTERM, and SIGKILL three seconds later."""
        self._ask("POST", f"/api/jobs/{quote(id_)}/stop")

    def nodes(self) -> list[dict[str, Any]]:
        """All nodes, also lost ones."""
        answer = self._ask("GET", "/api/v0/nodes?detail=1&limit=1000")
        found: list[dict[str, Any]] = answer["data"]["result"]["result"] if answer else []
        return found

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The answer's JSON; None for 404. UnreachableError, also for AGAIN_AFTER seconds without asking."""
        if time.monotonic() < self._silent_until:
            raise UnreachableError(f"Ray does not answer at {self.address}")
        headers = {"content-type": "application/json"}
        if token := os.environ.get("RAY_AUTH_TOKEN"):
            headers["authorization"] = f"Bearer {token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.address}{path}", method=method, headers=headers, data=data)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a cluster of one's own
        try:
            with opener.open(request, timeout=ANSWER_WITHIN) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            said = [line.strip() for line in error.read().decode(errors="replace").splitlines() if line.strip(" .")]
            kind = UnreachableError if error.code >= 500 else MachineError  # 500: its agents are not there yet
            raise kind(f"Ray at {self.address} answers {error.code}: {said[-1] if said else ''}") from None
        except (OSError, ValueError):
            self._silent_until = time.monotonic() + AGAIN_AFTER
            raise UnreachableError(f"Ray does not answer at {self.address}") from None
