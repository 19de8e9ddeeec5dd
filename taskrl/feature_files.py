"""Feature files: a row an image, as parquet, npz or csv, written a part at a time and without a clock: equal rows give
equal bytes.
"""

import io
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from taskrl.errors import ConfigError
from taskrl.folders import sync, to_json, write_text

ENDINGS = (".parquet", ".npz", ".csv")
METADATA_KEY = b"taskrl"
NO_LABEL = -1
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # OWASP, CSV injection
LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the earliest date that a zip file can hold


@dataclass(frozen=True, kw_only=True)
class FeatureRows:
    """Some rows. names, classes, labels (number of the class), splits: (N,), None where the data have none. features:
    (N, D) float32.
    """

    names: Sequence[str]
    classes: Sequence[str | None]
    labels: Sequence[int | None]
    splits: Sequence[str | None]
    features: NDArray[np.float32]


def check_ending(path: Path) -> None:
    """Raises ConfigError for a file that `write_features` cannot write."""
    if path.suffix not in ENDINGS:
        raise ConfigError(f"Features cannot be written to {str(path)!r}; end it in {', '.join(ENDINGS)}.")


def sidecar(path: Path) -> Path | None:
    """The file beside `path` that holds the metadata, where `path` cannot."""
    return path.with_name(f"{path.name}.json") if path.suffix == ".csv" else None


def write_features(
    path: Path, rows: Iterable[FeatureRows], *, num_rows: int, feature_dim: int, metadata: Mapping[str, Any]
) -> None:
    """Write `rows`, `num_rows` in all, to the new file `path`; of the features, one part at a time is in memory.

    parquet: columns name, class, label, split and features (a fixed-size list of float32); metadata as JSON under
    "taskrl" of the schema. npz: names, classes, splits ("" where there is none), labels (-1), features, and metadata as
    JSON. csv: name, class, label, split, f0 ...; metadata in `sidecar`; names and classes that spreadsheets would run
    as formulas are marked (`inert`).
    """
    if path.suffix == ".npz":
        _write_npz(path, rows, num_rows, feature_dim, metadata)
    else:
        _write_tables(path, rows, feature_dim, metadata)
    sync(path)


def _write_tables(path: Path, rows: Iterable[FeatureRows], feature_dim: int, metadata: Mapping[str, Any]) -> None:
    is_csv = path.suffix == ".csv"
    about = [
        pa.field(name, pa.int64() if name == "label" else pa.string()) for name in ("name", "class", "label", "split")
    ]
    if is_csv:
        schema = pa.schema([*about, *(pa.field(f"f{index}", pa.float32()) for index in range(feature_dim))])
        write_text(path.with_name(f"{path.name}.json"), to_json(metadata))
        writer = pa.csv.CSVWriter(path, schema)
    else:
        schema = pa.schema([*about, pa.field("features", pa.list_(pa.float32(), feature_dim))])
        writer = pa.parquet.ParquetWriter(path, schema.with_metadata({METADATA_KEY: json.dumps(metadata).encode()}))
    with writer:
        for part in rows:
            flat = pa.array(part.features.reshape(-1), pa.float32())
            features = [pa.FixedSizeListArray.from_arrays(flat, feature_dim)]
            if is_csv:
                features = [pa.array(np.ascontiguousarray(column), pa.float32()) for column in part.features.T]
            names, classes = part.names, part.classes
            if is_csv:
                names = [f"./{name}" if name.startswith(FORMULA) else name for name in names]  # the same path
                classes = [name and inert(name) for name in classes]
            columns = [
                pa.array(values, field.type)
                for values, field in zip((names, classes, part.labels, part.splits), about, strict=True)
            ]
            writer.write_table(pa.Table.from_arrays([*columns, *features], schema=schema))


def inert(text: str) -> str:
    """A cell that spreadsheets do not take for a formula, as OWASP has it: with ' before what begins like one."""
    return f"'{text}" if text.startswith(FORMULA) else text


def _write_npz(
    path: Path, rows: Iterable[FeatureRows], num_rows: int, feature_dim: int, metadata: Mapping[str, Any]
) -> None:
    names: list[str] = []
    classes: list[str] = []
    labels: list[int] = []
    splits: list[str] = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        header = {"descr": "<f4", "fortran_order": False, "shape": (num_rows, feature_dim)}
        with archive.open(zipfile.ZipInfo("features.npy", LONG_AGO), "w", force_zip64=True) as file:
            np.lib.format.write_array_header_1_0(file, header)
            for part in rows:
                file.write(np.ascontiguousarray(part.features, dtype="<f4").tobytes())
                names += part.names
                classes += [name or "" for name in part.classes]
                labels += [NO_LABEL if label is None else label for label in part.labels]
                splits += [split or "" for split in part.splits]
        arrays = {
            "names": np.array(names, dtype=np.str_),
            "classes": np.array(classes, dtype=np.str_),
            "labels": np.array(labels, dtype=np.int64),
            "splits": np.array(splits, dtype=np.str_),
            "metadata": np.array(json.dumps(metadata)),
        }
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.save(buffer, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", LONG_AGO), buffer.getvalue())
