"""Images for engines whose pixels a function makes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, eq=False)
class MadeBy:
    """A `PendingImage` whose pixels are what a function returns."""

    make: Callable[[], Any]
    is_quick: bool = True

    def fitted(self, _rule: object) -> Any:
        return self.make()
