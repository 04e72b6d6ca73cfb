"""What an experiment found: rows, as a pandas DataFrame, Parquet and CSV, with what they came from."""

from __future__ import annotations

import contextlib
import csv
import importlib.metadata
import importlib.util
import io
import json
import logging
import platform
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from canon.errors import InputError
from canon.experiments import measures
from canon.experiments.checking import counted
from canon.experiments.contracts import Row
from canon.experiments.store import Store
from canon.storage import atomic_path, to_plain, write_bytes, write_json

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("canon")

PARQUET, CSV, PROVENANCE = "results.parquet", "results.csv", "provenance.json"
FORMAT, VERSION = "canon-results", 1
_ALWAYS = (*measures.IDENTITY, "kind", "tool", "prompt", "swept", "status", "error")
_CATEGORIES = ("experiment", "clip", "representation", "editor", "kind", "tool", "status")
_PACKAGES = ("canon-video", "torch", "numpy", "opencv-python-headless", "av", "diffusers", "transformers")
_EXTRA = "install 'canon-video[experiments]'"


class Results:
    """Rows of an experiment; see :data:`canon.experiments.contracts.Row`."""

    def __init__(
        self, rows: Iterable[Row], store: Store | None = None, provenance: Mapping[str, Any] | None = None
    ) -> None:
        """Keep rows, and what they came from.

        Args:
            store: where the folders and files lie that the rows name; None = nowhere.
            provenance: JSON primitives: ``spec`` (the experiment as it was given, a mapping or a text), ``files`` that
                it was read from (names, or texts by name), ``description``, and whatever else is worth keeping, such as
                ``engine``; what :func:`environment` gives is added.
        """
        self.rows: list[Row] = [dict(row) for row in rows]
        self.store = store
        given = dict(provenance or {})
        # Found anew only where it is not known: results that are loaded keep what they were made with.
        self.provenance: dict[str, Any] = given if "versions" in given else {**environment(), **given}

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {status}" for status, count in self.counts.items())
        names = {"clip": "clip", "representation": "representation", "editor": "edit"}
        asked = " x ".join(counted(_count(self.rows, name), what) for name, what in names.items())
        rows = f"{counted(len(self), 'row')} ({counts or 'none'})"
        figures = ", ".join(measures.figures(self.rows)) or "none"
        return f"<Results '{self.name}': {rows}, {asked}; figures: {figures}>"

    def _repr_html_(self) -> str:
        return str(self.frame.to_html(max_rows=60, notebook=True))

    @property
    def name(self) -> str:
        """The experiment's name."""
        return str(next((row["experiment"] for row in self.rows if row.get("experiment")), "experiment"))

    @property
    def counts(self) -> dict[str, int]:
        """Rows by status, ``ok`` first."""
        found = [str(row.get("status")) for row in self.rows]
        order = [*(name for name in ("ok", "failed", "skipped") if name in found), *sorted(set(found))]
        return {name: found.count(name) for name in dict.fromkeys(order)}

    @cached_property
    def frame(self) -> pd.DataFrame:
        """All rows with fitting dtypes: figures float64, whole numbers Int64, names as categories, lists as lists.

        Raises:
            InputError: pandas is not installed.
        """
        pandas = _pandas()
        kinds = column_kinds(self.rows)
        columns = {}
        for name, kind in kinds.items():
            values = [_cell(row.get(name), kind) for row in self.rows]
            dtype = {"whole": "Int64", "number": "float64", "flag": "boolean", "list": "object"}.get(kind, "string")
            columns[name] = pandas.Series(values, dtype="category" if name in _CATEGORIES else dtype)
        return pandas.DataFrame(columns)

    def failures(self) -> list[Row]:
        """The rows of which something failed or was left out."""
        return [row for row in self.rows if row.get("status") != "ok"]

    def best(self, metric: str, lowest: bool | None = None) -> list[Row]:
        """The best row of every clip by a figure: of fits alone where it is theirs, else of edits.

        Args:
            lowest: whether less is better; None goes by what is known of the figure.

        Raises:
            InputError: no row has the figure, or it is not known which way is better.
        """
        names = measures.figures(self.rows)
        if metric not in names:
            raise InputError(f"No row has a figure '{metric}'; there are {', '.join(names) or 'none'}.")
        if lowest is None and not measures.measure(metric).better:
            raise InputError(f"Whether more or less of '{metric}' is better is not known; say so by lowest=.")
        alone = any(row.get("editor") is None and metric in row for row in self.rows)
        rows = [row for row in self.rows if metric in row and (row.get("editor") is None) == alone]
        sign = -1 if (measures.measure(metric).better < 0 if lowest is None else lowest) else 1
        clips = dict.fromkeys(row.get("clip") for row in rows)
        return [
            max((row for row in rows if row.get("clip") == clip), key=lambda row: sign * row[metric]) for clip in clips
        ]

    def save(self, folder: str | Path) -> list[Path]:
        """Write ``results.csv``, ``provenance.json``, and ``results.parquet`` where pandas and pyarrow are installed.

        Raises:
            InputError: the folder cannot be written, or the disk is full.
        """
        folder = Path(folder)
        kinds = column_kinds(self.rows)
        write_bytes(folder / CSV, _csv(self.rows, kinds).encode())
        record = {"format": FORMAT, "version": VERSION, "store": None if self.store is None else self.store.url}
        write_json(folder / PROVENANCE, {**record, "columns": kinds, "provenance": to_plain(self.provenance)})
        written = [folder / CSV, folder / PROVENANCE]
        if importlib.util.find_spec("pandas") is None or importlib.util.find_spec("pyarrow") is None:
            log.warning("%s is left out: pandas and pyarrow are not installed; %s", PARQUET, _EXTRA)
            return written
        with atomic_path(folder / PARQUET) as temporary:
            self.frame.to_parquet(temporary, index=False)
        return [folder / PARQUET, *written]

    @classmethod
    def load(cls, folder: str | Path) -> Results:
        """What :meth:`save` wrote; from the Parquet file where that can be read, else from the CSV file.

        Raises:
            InputError: missing, damaged, or of a later version.
        """
        folder = Path(folder)
        try:
            record = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
            made = record["format"], record["version"]
            kinds, provenance, url = dict(record["columns"]), dict(record["provenance"]), record["store"]
            rows = _stored_rows(folder, kinds) if made == (FORMAT, VERSION) else []
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"'{folder}' holds no results that can be read ({error!r}); run the experiment."
            ) from error
        if made != (FORMAT, VERSION):
            found = " ".join(map(str, made))
            raise InputError(f"'{folder / PROVENANCE}' is of format {found}; this canon reads {FORMAT} {VERSION}.")
        # The store may be gone, or elsewhere by now: the folder's own place is the better guess then.
        store = Store.open(url) if url and ("://" in url or Path(url).is_dir()) else Store.open(folder)
        return cls(rows, store, provenance)


def environment() -> dict[str, Any]:
    """When, on what machine, and with which versions: ``date``, ``machine``, ``versions``, ``commit`` (or None)."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": _machine(),
        "versions": versions,
        "commit": _commit(),
    }


def column_kinds(rows: Sequence[Row]) -> dict[str, str]:
    """What each column holds: ``text``, ``whole``, ``number``, ``flag``, ``list`` (of texts), or ``json``.

    Columns of which rows disagree, or that hold lists of other things, are JSON.
    """
    names = list(dict.fromkeys([*_ALWAYS, *(name for row in rows for name in row)]))
    return {name: _kind(name, [row[name] for row in rows if row.get(name) is not None]) for name in names}


def _kind(name: str, values: Sequence[Any]) -> str:
    if name in measures.LISTS:
        return "list"
    if name in measures.WHOLE:
        return "whole"
    types = {type(value) for value in values}
    if types and types <= {bool}:
        return "flag"
    # Figures are floats even where all of them happen to be whole.
    if types == {int} and "." in name:
        return "whole"
    if types and types <= {int, float}:
        return "number"
    return "text" if types <= {str} else "json"


def _cell(value: Any, kind: str) -> Any:
    """A value as the table holds it."""
    if value is None:
        return None
    if kind == "json":
        return json.dumps(to_plain(value), ensure_ascii=False)
    return [str(part) for part in value] if kind == "list" else value


def _csv(rows: Sequence[Row], kinds: Mapping[str, str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(kinds)
    for row in rows:
        cells = (_cell(row.get(name), kind) for name, kind in kinds.items())
        writer.writerow(
            ["" if cell is None else json.dumps(cell) if isinstance(cell, list) else cell for cell in cells]
        )
    return text.getvalue()


def _stored_rows(folder: Path, kinds: Mapping[str, str]) -> list[Row]:
    if (folder / PARQUET).is_file() and importlib.util.find_spec("pyarrow") is not None:
        import pyarrow.parquet

        found = pyarrow.parquet.read_table(folder / PARQUET).to_pylist()
    else:
        with (folder / CSV).open(encoding="utf-8", newline="") as file:
            found = [{name: _parsed(text, kinds[name]) for name, text in row.items()} for row in csv.DictReader(file)]
    rows = []
    for row in found:
        whole = {name: json.loads(v) if kinds[name] == "json" and v is not None else v for name, v in row.items()}
        whole = {name: [] if v is None and kinds[name] == "list" else v for name, v in whole.items()}
        # A float column says NaN for what is missing.
        rows.append({name: v for name, v in whole.items() if name in _ALWAYS or (v is not None and v == v)})
    return rows


def _parsed(text: str, kind: str) -> Any:
    if text == "":
        return None
    if kind == "flag":
        return text == "True"
    if kind == "list":
        return json.loads(text)
    return {"whole": int, "number": float}.get(kind, str)(text)


def _count(rows: Iterable[Row], name: str) -> int:
    return len({row.get(name) for row in rows} - {None})


def _pandas() -> Any:
    try:
        import pandas
    except ImportError as error:
        raise InputError(f"Results as a DataFrame need pandas; {_EXTRA}.") from error
    return pandas


def _machine() -> str:
    """Kind of processor, cores, and system, in words."""
    import os

    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {os.cpu_count()} cores, {platform.system()} {platform.release()}"


def _commit() -> str | None:
    """The commit of the checkout that canon is run from, or None where it is installed."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None
