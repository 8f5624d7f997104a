"""What a node counts, as text that Prometheus reads.

Source: the text format 0.0.4 of Prometheus ("Exposition formats"). No label carries a name of a tenant or chain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "atedb_"


class Sample(NamedTuple):
    """One number of a metric, and the labels that tell it from the others."""

    value: float
    labels: Mapping[str, str] = {}


class Metric(NamedTuple):
    """name: without prefix, with its unit. kind: "counter" or "gauge"."""

    name: str
    kind: str
    help: str
    samples: Iterable[Sample]


def gauge(name: str, help: str, value: float) -> Metric:
    """A number that goes up and down."""
    return Metric(name, "gauge", help, [Sample(value)])


def counter(name: str, help: str, value: float) -> Metric:
    """A number that only rises while the node runs."""
    return Metric(name, "counter", help, [Sample(value)])


Source = Callable[[], Iterable[Metric]]
"""Called for each request: what a part of the node has to say."""


def render(sources: Iterable[Source]) -> str:
    """All metrics of all sources."""
    lines = []
    for metric in (metric for source in sources for metric in source()):
        name = PREFIX + metric.name
        lines += [f"# HELP {name} {metric.help}", f"# TYPE {name} {metric.kind}"]
        lines += [f"{name}{_labels(sample.labels)} {_number(sample.value)}" for sample in metric.samples]
    return "\n".join(lines) + "\n"


def _labels(labels: Mapping[str, str]) -> str:
    def quoted(text: str) -> str:
        return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

    return "{" + ",".join(f'{name}="{quoted(text)}"' for name, text in labels.items()) + "}" if labels else ""


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else repr(float(value))
