"""How many rows were decided how: counted when a part is written, summed for the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass(frozen=True)
class Decided:
    """Counts of rows without an error.

    Args:
        decisions: By decision: label, abstained, no_face.
        labels: By label; of a multilabel model a row counts for each of its labels.
        num_alerts: Whose decision is an alert.
    """

    decisions: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    num_alerts: int = 0

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]]) -> Self:
        """Counts rows, which may have none of the columns."""
        decisions: Counter[str] = Counter()
        labels: Counter[str] = Counter()
        num_alerts = 0
        for row in rows:
            if decision := row.get("decision"):
                decisions[decision] += 1
                labels.update(row.get("labels") or ([row["label"]] if row.get("label") else ()))
                num_alerts += bool(row.get("alert"))
        return cls(decisions, labels, num_alerts)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Reads what `to_json` gives; counts that are not there are 0."""
        return cls(
            Counter(document.get("decisions", {})),
            Counter(document.get("labels", {})),
            document.get("alerts", 0),
        )

    def __add__(self, other: Decided) -> Decided:
        return Decided(
            self.decisions + other.decisions,
            self.labels + other.labels,
            self.num_alerts + other.num_alerts,
        )

    def to_json(self) -> dict[str, Any]:
        """As a JSON document, the commonest first."""
        return {
            "decisions": dict(self.decisions.most_common()),
            "labels": dict(self.labels.most_common()),
            "alerts": self.num_alerts,
        }
