"""Prometheus' graphs, as the link of a task that judges shows them to a person."""

from datetime import UTC, datetime
from urllib.parse import parse_qsl, urlsplit

import requests

from tests.e2e.world import World
from tests.stack.demo import DAG

Graph = dict[str, float]
"""Each line's highest point, by ``label=value``."""


def link(world: World, run: str, task: str) -> str:
    """Wait until the task has its link, and return it."""
    path = f"dags/{DAG}/dagRuns/{run}/taskInstances/{task}/links"
    found = world.until(lambda: world.api.get(path)["extra_links"]["Prometheus graphs"], f"{task} has its link", 30)
    return str(found)


def graphs(world: World, page: str) -> list[Graph]:
    """Return the graphs of a page."""
    shown = dict(parse_qsl(urlsplit(page).query, strict_parsing=True))
    queries = [value for name, value in shown.items() if name.endswith(".expr")]
    span = float(shown["g0.range_input"].removesuffix("s"))
    ended = shown.get("g0.end_input")
    end = (datetime.fromisoformat(f"{ended}Z") if ended else datetime.now(UTC)).timestamp()
    return [_graph(world, query, end - span, end) for query in queries]


def _graph(world: World, query: str, start: float, end: float) -> Graph:
    asked: dict[str, str | float] = {"query": query, "start": start, "end": end, "step": 5}
    answer = requests.get(f"{world.info.prometheus_url}/api/v1/query_range", params=asked, timeout=30)
    answer.raise_for_status()
    return {
        ",".join(f"{name}={value}" for name, value in line["metric"].items()): max(
            (number for _, text in line["values"] if (number := float(text)) == number), default=0.0
        )  # without requests, a share is NaN
        for line in answer.json()["data"]["result"]
    }
