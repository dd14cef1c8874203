"""Statistics of the output's train split, in the form of lerobot's `meta/stats.json`.

Numbers: over the anchors' own rows; per shard exact, then merged in shard order: count, min, max, mean and std exactly
(up to rounding), quantiles as the mean of the shards' quantiles weighted by their counts, which is what lerobot's own
aggregation over episodes does. Images: from the histograms of the sampled frames, exactly, scaled to [0, 1].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predecode.transforms.fidelity import CameraMeter

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}


@dataclass(slots=True)
class RowMeter:
    """Collects the anchors' rows of one shard; they are few and small."""

    parts: dict[str, list[NDArray[Any]]] = field(default_factory=dict)

    def add(self, rows: Mapping[str, Any]) -> None:
        """Adds rows (A, ...) per feature; what is not a number is passed over."""
        for name, values in rows.items():
            if isinstance(values, np.ndarray):
                self.parts.setdefault(name, []).append(values)

    def summary(self) -> dict[str, dict[str, Any]]:
        """Per feature what `MergedRows` merges, as plain JSON; NaN and infinite values are left out."""
        return {name: _summarize(np.concatenate(parts)) for name, parts in self.parts.items()}


def _summarize(values: NDArray[Any]) -> dict[str, Any]:
    numbers = values.reshape(len(values), -1).astype(np.float64)
    columns = [column[np.isfinite(column)] for column in numbers.T]
    means = [float(column.mean()) if len(column) else 0.0 for column in columns]
    summary: dict[str, Any] = {
        "shape": list(values.shape[1:]),
        "count": [len(column) for column in columns],
        "min": [float(column.min()) if len(column) else 0.0 for column in columns],
        "max": [float(column.max()) if len(column) else 0.0 for column in columns],
        "mean": means,
        "m2": [float(((column - mean) ** 2).sum()) for column, mean in zip(columns, means, strict=True)],
    }
    levels = list(QUANTILES.values())
    quantiles = [np.quantile(column, levels) if len(column) else np.zeros(len(levels)) for column in columns]
    for place, name in enumerate(QUANTILES):
        summary[name] = [float(of_column[place]) for of_column in quantiles]
    return summary


@dataclass(slots=True)
class MergedRows:
    """Shard summaries merged one by one, in the order in which they come."""

    totals: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, summaries: Mapping[str, Mapping[str, Any]]) -> None:
        """Adds what `RowMeter.summary` gave for one shard."""
        for name, summary in summaries.items():
            total = self.totals.get(name)
            self.totals[name] = _merge_two(total, _arrays(summary)) if total else _arrays(summary)

    def entries(self) -> dict[str, dict[str, Any]]:
        """Per feature an entry of stats.json."""
        return {name: _entry(total) for name, total in self.totals.items()}


def _entry(total: Mapping[str, Any]) -> dict[str, Any]:
    entry = {key: np.where(total["count"] > 0, total[key], 0.0) for key in ("min", "max", "mean")}
    entry["std"] = np.sqrt(total["m2"] / np.maximum(total["count"], 1))
    entry |= {name: total[name] for name in QUANTILES}
    shaped = {key: value.reshape(total["shape"] or (1,)).tolist() for key, value in entry.items()}
    return shaped | {"count": [int(total["count"].max(initial=0))]}


def _arrays(summary: Mapping[str, Any]) -> dict[str, Any]:
    """As arrays; the placeholders of values without a finite one must not count as extremes."""
    total: dict[str, Any] = {key: np.array(value, np.float64) for key, value in summary.items() if key != "shape"}
    total["shape"] = tuple(summary["shape"])
    total["min"] = np.where(total["count"] > 0, total["min"], np.inf)
    total["max"] = np.where(total["count"] > 0, total["max"], -np.inf)
    return total


def _merge_two(left: dict[str, Any], right: dict[str, Any]) -> dict[str, Any]:
    """Chan's parallel formula for mean and sum of squared deviations."""
    count = left["count"] + right["count"]
    share = right["count"] / np.maximum(count, 1)
    apart = right["mean"] - left["mean"]
    merged = {
        "shape": left["shape"],
        "count": count,
        "min": np.minimum(left["min"], right["min"]),
        "max": np.maximum(left["max"], right["max"]),
        "mean": left["mean"] + apart * share,
        "m2": left["m2"] + right["m2"] + apart**2 * left["count"] * share,
    }
    return merged | {name: left[name] + (right[name] - left[name]) * share for name in QUANTILES}


def image_statistics(meter: CameraMeter) -> dict[str, Any]:
    """An entry of stats.json for a camera: values in [0, 1], shape (C, 1, 1); count is the number of sampled frames."""
    histogram = meter.histogram
    levels = np.arange(256) / 255.0
    counts = np.maximum(histogram.sum(axis=1), 1)
    mean = histogram @ levels / counts
    variance = histogram @ levels**2 / counts - mean**2
    seen = histogram > 0
    below = histogram.cumsum(axis=1)
    entry = {
        "min": levels[seen.argmax(axis=1)],
        "max": levels[255 - seen[:, ::-1].argmax(axis=1)],
        "mean": mean,
        "std": np.sqrt(np.maximum(variance, 0.0)),
    }
    for name, quantile in QUANTILES.items():
        entry[name] = levels[(below >= quantile * counts[:, None]).argmax(axis=1)]
    shaped = {key: value.reshape(-1, 1, 1).tolist() for key, value in entry.items()}
    return shaped | {"count": [meter.num_sampled]}
