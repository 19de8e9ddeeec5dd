"""MLflow's store: its sqlite file made whole or not at all, the repair of a moved run folder, the connection."""

import logging
import os
import shutil
import sqlite3
import tempfile
import warnings
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from taskrl.errors import RunFolderError

if TYPE_CHECKING:
    from mlflow import MlflowClient

DATABASE_NAME = "mlflow.db"
ARTIFACTS_NAME = "artifacts"
BUSY_S = 5.0
_NOISY_LOGGERS = (
    "mlflow.store.db.utils",
    "alembic.runtime.migration",
    "alembic.runtime.plugins.setup",
    "urllib3.connectionpool",
    "urllib3.util.retry",
)
THREAD_NAME = "taskrl-mlflow"


def sqlite_uri(database: Path) -> str:
    """The tracking URI of a sqlite file. Raises RunFolderError for a path that no such URI can name."""
    path = str(database.resolve())
    if "?" in path:
        raise RunFolderError(f"MLflow cannot open {path} because of the '?'; use a folder without it.")
    return f"sqlite:///{path}"


def sqlite_path(uri: str) -> Path | None:
    """The file behind a plain sqlite URI; None for any other URI."""
    path = uri.removeprefix("sqlite:///")
    return None if path in (uri, "", ":memory:") or "?" in path else Path(path).absolute()


def repair_moved_run(run_dir: Path) -> bool:
    """Point the artifact locations in RUN/mlflow.db at RUN/artifacts; True if they pointed to another folder.

    MLflow stores absolute locations, so a run folder that was moved or copied would list (and write) the old place.
    Raises RunFolderError where the database cannot be read or changed.
    """
    database = run_dir.resolve() / DATABASE_NAME
    here = (run_dir.resolve() / ARTIFACTS_NAME).as_uri()
    if not database.exists():
        return False
    try:
        with closing(sqlite3.connect(database, timeout=BUSY_S)) as connection, connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if not {"experiments", "runs"} <= tables:
                raise sqlite3.DatabaseError("it holds no MLflow tables")
            old_roots = sorted(_artifact_roots(connection) - {here})
            for old in old_roots:
                for table, column in (
                    ("experiments", "artifact_location"),
                    ("runs", "artifact_uri"),
                    ("logged_models", "artifact_location"),
                ):
                    if table in tables:
                        connection.execute(
                            f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                            (here + "/", len(old) + 2, len(old) + 1, old + "/"),
                        )
                        connection.execute(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", (here, old))
    except sqlite3.Error as error:
        raise RunFolderError(
            f"{database} cannot be used by MLflow ({error}); restore it from a copy, or delete it and lose its runs."
        ) from error
    return bool(old_roots)


def _artifact_roots(connection: sqlite3.Connection) -> set[str]:
    """File locations ending in /artifacts of the experiments, and of the runs without their own RUN_ID/artifacts."""
    roots = [str(location) for (location,) in connection.execute("SELECT artifact_location FROM experiments")]
    for uri, run_id in connection.execute("SELECT artifact_uri, run_uuid FROM runs"):
        own = f"/{run_id}/artifacts"
        if str(uri).endswith(own):
            roots.append(str(uri)[: -len(own)])
    return {root for root in roots if root.startswith("file:///") and root.endswith("/" + ARTIFACTS_NAME)}


def connect(uri: str) -> "MlflowClient":
    """A client of the store at `uri`; a sqlite file that does not exist is made first."""
    from mlflow import MlflowClient

    database = sqlite_path(uri)
    if database is not None:
        if not database.exists():
            _create_database(database)
        with closing(sqlite3.connect(database, timeout=BUSY_S)) as connection:
            connection.execute("BEGIN IMMEDIATE")  # fails at once where MLflow would retry for minutes
    return MlflowClient(tracking_uri=uri)


def _create_database(database: Path) -> None:
    """Migrate in a temporary folder and link the result: no half-made file, and no race between two processes."""
    from mlflow import MlflowClient

    with tempfile.TemporaryDirectory(prefix="taskrl-mlflow-") as folder:
        fresh = Path(folder) / DATABASE_NAME
        client = MlflowClient(tracking_uri=sqlite_uri(fresh))
        client.search_experiments(max_results=1)
        dispose(client)
        with closing(sqlite3.connect(fresh)) as connection, connection:  # MLflow put its "Default" under the cwd
            here = (database.parent / ARTIFACTS_NAME).as_uri()
            connection.execute("UPDATE experiments SET artifact_location = ?", (here,))
        _publish(fresh, database)


def _publish(fresh: Path, database: Path) -> None:
    """Put a copy of `fresh` at `database` in one step, unless another process was faster."""
    beside = database.with_name(f".{database.name}.{os.getpid()}.tmp")
    try:
        shutil.copyfile(fresh, beside)
        try:
            os.link(beside, database)
        except FileExistsError:
            return
        except OSError:  # a file system without hard links
            beside.rename(database)
    finally:
        beside.unlink(missing_ok=True)


def dispose(client: "MlflowClient") -> None:
    """Close the pooled connections: MLflow caches an engine for each URI for the life of the process."""
    engine = getattr(getattr(getattr(client, "_tracking_client", None), "store", None), "engine", None)
    if engine is not None:
        engine.dispose()


def find_or_create_experiment(client: "MlflowClient", name: str, artifact_root: Path | None) -> str:
    """The id of the experiment called `name`; a new one keeps artifacts in `artifact_root` (None: server default)."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        location = None if artifact_root is None else artifact_root.as_uri()
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException:  # another process may have been faster
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return str(found.experiment_id)


def prepare_process(uri: str) -> None:
    """Settings that MLflow reads from the environment; what the user has set stays."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    if uri.startswith(("http://", "https://")):
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # MLflow's 7 take four minutes
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
    for category in (DeprecationWarning, FutureWarning):  # for `python -W error`: theirs to mend, and no failure
        warnings.filterwarnings("ignore", category=category, module=r"(mlflow|sqlalchemy|alembic)(\.|$)")


def hush_thread() -> None:
    """Keep migration and retry lines of threads called THREAD_NAME off the terminal; other threads log as before."""
    for name in _NOISY_LOGGERS:
        logger = logging.getLogger(name)
        if _from_other_threads not in logger.filters:
            logger.addFilter(_from_other_threads)


def _from_other_threads(record: logging.LogRecord) -> bool:
    return record.threadName != THREAD_NAME
