"""metrics.jsonl of a run that may still be growing -> what the page shows of it.

A file is read once: every later call reads what was added. Of the decisions only a sample is parsed, since a long run
writes 10^5 of them, a kilobyte each.
"""

import copy
import json
import os
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from taskrl.report_figures import number

# as taskrl.tracking writes a line; others are parsed whole
LEAST_SPAN_S = 1.0
HEAD = re.compile(
    rb'\{"kind": "(\w{1,40})", "step": (\d{1,15}), "run": "([^"\\]{0,300})", "time": (\d{1,12}(?:\.\d{1,6})?), '
)
CHUNK = 1 << 22
LONGEST_LINE = 1 << 23
MOST_SAMPLED = 2000
MOST_EPISODES = 1_000_000
NUM_RECENT = 256
SCATTER = 2654435761  # Knuth's: neighbouring steps land far apart, so that no place in an episode is favoured
WHOLE = 1 << 32


@dataclass(frozen=True)
class Decision:
    """run: the part of the run that it belongs to; empty for the search, or for a pretraining."""

    run: str
    step: int
    metrics: Mapping[str, Any]


class Metrics:
    """What was read so far. Steps that a resumed run repeats count once, as their last line has them.

    episodes: by their number. sample: decisions of the search (or of a pretraining) by step, all of them or evenly
    scattered ones. num_decisions: lines of decisions; num_own: those of `sample`'s
    kind; num_since: of these, after the last episode that ended. num_broken: lines that cannot be read. last_time: Unix
    time in s of the newest line; 0 before there is one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reset()

    def _reset(self) -> None:
        self._offset, self._identity, self._rest = 0, (0, 0), b""
        self._skipping = False
        self._limit = WHOLE
        self.episodes: dict[int, dict[str, Any]] = {}
        self.sample: dict[int, dict[str, Any]] = {}
        self._recent: deque[tuple[str, int, float, bytes]] = deque(maxlen=NUM_RECENT)
        self.num_decisions = self.num_own = self.num_since = self.num_broken = 0
        self.last_time = 0.0

    @property
    def cursor(self) -> tuple[int, int, int]:
        """Changes whenever something was read."""
        return (*self._identity, self._offset)

    def so_far(self) -> "Metrics":
        """What was read so far; it stays as it is when this reads on."""
        found = copy.copy(self)
        found.episodes, found.sample, found._recent = self.episodes.copy(), self.sample.copy(), self._recent.copy()
        return found

    def read(self) -> None:
        """Take in what was added. A file that is gone or was replaced by another is begun anew."""
        try:
            with self._path.open("rb") as file:
                found = os.fstat(file.fileno())
                identity = (found.st_dev, found.st_ino)
                if identity != self._identity or found.st_size < self._offset:
                    self._reset()
                    self._identity = identity
                if found.st_size > self._offset:
                    self._take(file)
        except OSError:
            self._reset()

    def _take(self, file: BinaryIO) -> None:
        file.seek(self._offset)
        while chunk := file.read(CHUNK):
            self._offset += len(chunk)
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            for line in lines:
                if self._skipping:
                    self._skipping = False
                elif line:
                    self._add(line)
            if len(self._rest) > LONGEST_LINE:
                self._rest, self._skipping = b"", True
                self.num_broken += 1

    def _add(self, line: bytes) -> None:
        head = HEAD.match(line)
        if head is None:
            entry = _parsed(line)
            kind, run = entry.get("kind"), entry.get("run")
            step, when = number(entry.get("step")), number(entry.get("time"))
            if not isinstance(kind, str) or not isinstance(run, str) or step is None or when is None:
                self.num_broken += 1
                return
            self._keep(kind, int(step), run, when, line)
        else:
            kind, run = head[1].decode(), head[3].decode("utf-8", "replace")
            self._keep(kind, int(head[2]), run, float(head[4]), line)

    def _keep(self, kind: str, step: int, run: str, when: float, line: bytes) -> None:
        if kind == "decision":
            self.num_decisions += 1
            self._recent.append((run, step, when, line))
            self.num_own += not run
            self.num_since += not run
            if not run and step * SCATTER % WHOLE < self._limit:
                self.sample[step] = self._metrics(line)
                while len(self.sample) > MOST_SAMPLED:
                    self._limit //= 2
                    kept = self.sample.items()
                    self.sample = {step: found for step, found in kept if step * SCATTER % WHOLE < self._limit}
        elif kind == "episode" and not run and (step in self.episodes or len(self.episodes) < MOST_EPISODES):
            self.episodes[step] = self._metrics(line)
            self.num_since = 0
        self.last_time = max(self.last_time, when)

    def _metrics(self, line: bytes) -> dict[str, Any]:
        found = _parsed(line).get("metrics")
        if not isinstance(found, dict):
            self.num_broken += 1
            return {}
        return found

    def last_decision(self) -> Decision | None:
        """The last one that can be read."""
        for run, step, _, line in reversed(self._recent):
            found = _parsed(line).get("metrics")
            if isinstance(found, dict):
                return Decision(run, step, found)
        return None

    def rate(self) -> float | None:
        """Decisions a second, of the last ones; None where they are known over too short a time."""
        times = sorted(when for _, _, when, _ in self._recent)
        span = times[-1] - times[0] if times else 0.0
        # what ends together is recorded together, so the first moment stands for work done before it
        after = sum(when > times[0] for when in times) if times else 0
        return after / span if span >= LEAST_SPAN_S else None


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return entry if isinstance(entry, dict) else {}
