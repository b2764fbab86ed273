"""The files for Prometheus and Grafana use existing metrics, and each alert has a panel."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from subtitled.config import schema
from subtitled.core.states import JobEvent, SegmentEvent, WorkerState
from subtitled.observability.metrics import Metrics

ROOT = Path(__file__).parents[2]
RULES = yaml.safe_load((ROOT / "config/prometheus/subtitled.rules.yml").read_text("utf-8"))
ALERTS: list[dict[str, Any]] = [rule for group in RULES["groups"] for rule in group["rules"]]
BOARD: dict[str, Any] = json.loads((ROOT / "config/grafana/subtitled.json").read_text("utf-8"))
PANELS: list[dict[str, Any]] = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [
    *((alert["alert"], alert["expr"]) for alert in ALERTS),
    *((panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]),
]
FUNCTIONS = {
    *("sum", "avg", "min", "max", "by", "on", "and"),
    *("rate", "increase", "deriv", "histogram_quantile"),
}
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}


def known() -> dict[str, set[str]]:
    """Return the names under which Prometheus knows the daemon's metrics, with their labels."""
    found: dict[str, set[str]] = {}
    registry = Metrics().registry
    for collector in registry._collector_to_names:
        labels = set(getattr(collector, "_labelnames", ()))
        for family in getattr(collector, "describe", collector.collect)():
            for suffix in SUFFIXES.get(family.type, ("",)):
                found[family.name + suffix] = labels | ({"le"} if suffix == "_bucket" else set())
    return found


@pytest.mark.parametrize(("where", "expression"), EXPRESSIONS)
def test_expressions_use_existing_metrics_and_labels(where: str, expression: str) -> None:
    metrics = known()
    used = set(re.findall(r"subtitled_\w+", expression))
    assert used <= set(metrics), where
    for name, selector in re.findall(r"(subtitled_\w+)\{([^}]*)\}", expression):
        labels = set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)", selector)) - {"instance", "job"}
        assert labels <= metrics[name], where


@pytest.mark.parametrize(("where", "expression"), EXPRESSIONS)
def test_expressions_are_well_formed(where: str, expression: str) -> None:
    """As far as can be checked without Prometheus: brackets that close, functions that it has."""
    for opening, closing in ("()", "{}", "[]"):
        assert expression.count(opening) == expression.count(closing), where
    assert set(re.findall(r"\b([a-z]\w*) ?\(", expression)) <= FUNCTIONS, where


@pytest.mark.parametrize(("where", "expression"), EXPRESSIONS)
def test_events_and_states_in_expressions_are_ones_that_the_daemon_sets(where: str, expression: str) -> None:
    """An alert on a renamed event would never fire."""
    events = {event.value for kind in (JobEvent, SegmentEvent) for event in kind} | {"done", "failed"}
    states = {state.value for state in WorkerState}
    for label, values in re.findall(r'\b(event|state)(?:=~|!=|!~|=)"([^"]*)"', expression):
        assert set(values.split("|")) <= (events if label == "event" else states), where


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_every_alert_has_a_remedy_and_a_diagnosis(alert: dict[str, Any]) -> None:
    notes = alert["annotations"]
    assert set(notes) == {"summary", "do", "provoke"}
    assert alert["labels"]["severity"] in {"warning", "critical"}
    if notes["provoke"].startswith("tests/"):
        path, _, test = notes["provoke"].partition("::")
        assert f"def {test}(" in (ROOT / path).read_text("utf-8")


def test_names_of_alerts_and_panels_are_unique() -> None:
    for names in ([alert["alert"] for alert in ALERTS], [panel["title"] for panel in PANELS]):
        assert len(names) == len(set(names))


def test_prometheus_scrapes_the_default_port() -> None:
    found = yaml.safe_load((ROOT / "config/prometheus/prometheus.yml").read_text("utf-8"))
    (scrape,) = found["scrape_configs"]
    assert scrape["job_name"] == "subtitled"
    assert scrape["static_configs"] == [{"targets": [schema.ListenConfig().metrics]}]
    assert found["rule_files"] == ["subtitled.rules.yml"]


def test_panels_do_not_overlap() -> None:
    places = [panel["gridPos"] for panel in BOARD["panels"]]
    for place in places:
        assert place["x"] + place["w"] <= 24
    cells = [
        (x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])
    ]
    assert len(cells) == len(set(cells))
