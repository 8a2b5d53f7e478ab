"""govor jobs list | show | cancel | nodes: requests to a running server over HTTP."""

import json
import urllib.error
import urllib.request
from datetime import datetime
from typing import Any
from urllib.parse import quote

from train.core.errors import GovorError


class Client:
    """Requests to one server; where it refuses, a GovorError with the message of its answer."""

    def __init__(self, url: str, key: str | None) -> None:
        self.url = url.rstrip("/")
        self.key = key

    def jobs(self, limit: int) -> list[dict[str, Any]]:
        """The newest jobs, newest first."""
        jobs: list[dict[str, Any]] = self._request("GET", f"/fine_tuning/jobs?limit={limit}")["data"]
        return jobs

    def job(self, id_: str) -> dict[str, Any]:
        """The job of this id."""
        return self._request("GET", f"/fine_tuning/jobs/{quote(id_, safe='')}")

    def events(self, id_: str, limit: int) -> list[dict[str, Any]]:
        """The newest events of a job, oldest first."""
        page = self._request("GET", f"/fine_tuning/jobs/{quote(id_, safe='')}/events?limit={limit}")
        return list(reversed(page["data"]))

    def cancel(self, id_: str) -> dict[str, Any]:
        """Cancel a job; the job as it is then."""
        return self._request("POST", f"/fine_tuning/jobs/{quote(id_, safe='')}/cancel")

    def nodes(self) -> list[dict[str, Any]]:
        """The machines that train."""
        nodes: list[dict[str, Any]] = self._request("GET", "/nodes")["data"]
        return nodes

    def _request(self, method: str, path: str) -> dict[str, Any]:
        headers = {"authorization": f"Bearer {self.key}"} if self.key else {}
        request = urllib.request.Request(f"{self.url}{path}", method=method, headers=headers)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it is one's own machine
        try:
            with opener.open(request, timeout=30) as response:
                answer: dict[str, Any] = json.load(response)
        except urllib.error.HTTPError as error:
            raise GovorError(_error_message(error)) from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise GovorError(f"{self.url}: no jobs server answers there ({reason}): govor jobs serve") from None
        return answer


def _error_message(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"{error.url}: answered {error.code}"


def list_jobs(client: Client, limit: int, *, as_json: bool) -> None:
    """Print the newest jobs, a line each or as JSON."""
    jobs = client.jobs(limit)
    print(json.dumps(jobs, ensure_ascii=False) if as_json else "\n".join(map(job_line, jobs)) or "no jobs yet")


def show_job(client: Client, id_: str, events: int, *, as_json: bool) -> None:
    """Print a job and its last events; as JSON the job alone."""
    job = client.job(id_)
    if as_json:
        print(json.dumps(job, ensure_ascii=False))
        return
    print(job_line(job))
    for event in client.events(id_, events):
        at = datetime.fromtimestamp(event["created_at"]).astimezone()
        print(f"{at:%Y-%m-%d %H:%M:%S %z}  {event['level']:<5}  {event['message']}")


def list_nodes(client: Client, *, as_json: bool) -> None:
    """Print the machines that train, with their cards and jobs: a line each, or as JSON."""
    nodes = client.nodes()
    lines = (f"{n['name']}  {n['state']}  {n['gpus']:g} GPU  {' '.join(n['jobs'])}".rstrip() for n in nodes)
    print(json.dumps(nodes, ensure_ascii=False) if as_json else "\n".join(lines) or "no nodes")


def job_line(job: dict[str, Any]) -> str:
    """A job on one line: id, status, base, fine-tuned model."""
    return f"{job['id']}  {job['status']:<16}  {job['model']}  {job['fine_tuned_model'] or ''}".rstrip()
