"""MLflow's page for one run folder, on this machine only."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from contextlib import closing, suppress
from pathlib import Path

from taskrl.errors import RunFolderError
from taskrl.mlflow_store import ARTIFACTS_NAME, DATABASE_NAME, repair_moved_run, sqlite_uri

__all__ = ["page_url", "repair_moved_run", "run_url", "serve", "server_command", "stop", "wait_until_up"]

HOST = "127.0.0.1"


def page_url(port: int) -> str:
    """Where the page is."""
    return f"http://{HOST}:{port}"


def run_url(run_dir: Path, port: int) -> str:
    """The page of the run itself, of a comparison the outer one; MLflow's own front page where none is recorded."""
    database = (run_dir / DATABASE_NAME).resolve()
    query = "SELECT experiment_id, run_uuid FROM runs WHERE lifecycle_stage = 'active' ORDER BY start_time LIMIT 1"
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        for experiment, run in connection.execute(query):
            return f"{page_url(port)}/#/experiments/{experiment}/runs/{run}"
    return page_url(port)


def server_command(run_dir: Path, port: int) -> list[str]:
    """The command line of MLflow's server for the store in `run_dir`."""
    run_dir = run_dir.resolve()
    return [
        *(sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", sqlite_uri(run_dir / DATABASE_NAME)),
        *("--default-artifact-root", (run_dir / ARTIFACTS_NAME).as_uri(), "--no-serve-artifacts"),
        *("--uvicorn-opts", "--log-level warning"),
    ]


def serve(run_dir: Path, *, port: int = 5000) -> "subprocess.Popen[bytes]":
    """Mend the folder if it was moved and start MLflow's server; end it with `stop`, or it outlives this
    process.

    Raises RunFolderError where the folder holds no MLflow data or the port cannot be had.
    """
    database = run_dir / DATABASE_NAME
    if not database.is_file():
        raise RunFolderError(
            f"{run_dir} has no {DATABASE_NAME}; give the folder of a run that was tracked there (a run with its own "
            "--tracking-uri is shown by that server)."
        )
    _check_port(port)
    repair_moved_run(run_dir)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "_MLFLOW_"))}
    env |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    # A session of its own: the server starts children, and one signal to the group then ends them all.
    return subprocess.Popen(server_command(run_dir, port), cwd=run_dir.resolve(), env=env, start_new_session=True)


def wait_until_up(server: "subprocess.Popen[bytes]", port: int, *, deadline_s: float = 60.0) -> None:
    """Return when the page answers. Raises RunFolderError if the server ends first or takes longer."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        if server.poll() is not None:
            raise RunFolderError(f"MLflow's server ended with code {server.returncode}; its own message is above.")
        with suppress(OSError), opener.open(page_url(port) + "/health", timeout=2.0):
            return  # an answer that is no success is an HTTPError, and like every URLError an OSError
        time.sleep(0.2)
    raise RunFolderError(f"MLflow's server gave no answer on {page_url(port)} within {deadline_s:g} s.")


def stop(server: "subprocess.Popen[bytes]", *, deadline_s: float = 5.0) -> None:
    """End the server and its children: politely, then by force."""
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        server.wait(deadline_s)
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def _check_port(port: int) -> None:
    if not 1 <= port <= 65535:
        raise RunFolderError(f"Port {port} does not exist; give one between 1024 and 65535 with --port.")
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise RunFolderError(
                f"Port {port} on {HOST} cannot be used ({error.strerror}); give another one with --port."
            ) from error
