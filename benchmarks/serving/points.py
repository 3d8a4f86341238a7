"""What has been measured, on disk at once, so that a run that was broken off goes on where it stopped."""

import json
from pathlib import Path
from typing import Any

Key = dict[str, str | int]
Point = dict[str, Any]


class Points:
    """A file with one measurement a line.

    Args:
        path: The file; what is in it counts as measured.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: list[tuple[str, Key, Point]] = []
        if path.exists():
            for line in path.read_text().splitlines():
                row = json.loads(line)
                self._rows.append((row["section"], row["key"], row["point"]))

    def has(self, section: str, key: Key) -> bool:
        """Whether something is measured already."""
        return any((section, key) == (known, other) for known, other, _ in self._rows)

    def add(self, section: str, key: Key, point: Point) -> None:
        """Store a measurement."""
        self._rows.append((section, key, point))
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps({"section": section, "key": key, "point": point}) + "\n")

    def of(self, section: str) -> list[Point]:
        """Measurements of a section, each with its key in it."""
        return [{**key, **point} for known, key, point in self._rows if known == section]
