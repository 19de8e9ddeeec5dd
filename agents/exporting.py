"""`taskrl export`: the encoder or the task policy of a run in formats that others read."""

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agents.compare.folder import is_comparison
from agents.compare.outcome import comparison_result
from agents.keeping import BEST, EMA, LAST, kept_folders
from agents.options import pieces
from agents.policy_export import write_policy
from taskrl.config import TrackingConfig
from taskrl.errors import ConfigError, RunFolderError, unknown_name
from taskrl.export import CONFIG, README, WEIGHTS, check_images, export_encoder, load_exported
from taskrl.export_card import UNKNOWN_LICENSE, folder_snippet, stem_changes
from taskrl.export_graphs import onnx_snippet, pt2_snippet, require_onnx, write_onnx, write_pt2
from taskrl.folders import MANIFEST, as_written, new_folder, read_json, typed
from taskrl.mlflow_model import Registration, model_snippet, write_model
from taskrl.mlflow_store import ARTIFACTS_NAME, DATABASE_NAME, repair_moved_run, sqlite_path, sqlite_uri
from taskrl.modalities.image.modeling import Encoder
from taskrl.run_folder import RunFolder, refuse_existing

FOLDER, ONNX, PT2, MLFLOW, POLICY = "folder", "onnx", "pt2", "mlflow", "policy"
# what each is called where several are written to one folder
PLACES = {FOLDER: "encoder", ONNX: "encoder.onnx", PT2: "encoder.pt2", MLFLOW: "mlflow-model", POLICY: "policy"}
ALIASES = {"safetensors": FOLDER}
LICENSE = r"[A-Za-z0-9][A-Za-z0-9.+-]*"
# what MLflow takes; it would refuse an alias only once the model stands in the registry
MODEL_NAME = r"(?!\.\.?$)[^/:\s][^/:\n]*"
ALIAS = r"(?!([vV]\d+|[lL][aA][tT][eE][sS][tT])$)[A-Za-z0-9_-]{1,255}"
FROM_ROW = ("validation_accuracy", "knn_accuracy", "search_flops")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What `taskrl export` was asked for. out: None only checks the encoder. weights: best, last or ema; None is
    the one that counts, encoder/.
    """

    formats: tuple[str, ...]
    out: Path | None
    weights: str | None = None
    license_name: str = UNKNOWN_LICENSE
    register: str | None = None
    alias: str | None = None
    tracking_uri: str | None = None


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written. difference: the largest of a feature at batches of 1, 2 and 7, None for a policy.

    snippet: Python that loads it without taskrl, or for a policy the command that uses it.
    """

    format: str
    path: Path
    snippet: str
    difference: float | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Source:
    """The encoder that is exported. config: config.json without its card. sha256: of the weights."""

    encoder: Encoder
    config: Mapping[str, Any]
    card: Mapping[str, Any]
    sha256: str


def formats_named(given: Sequence[str]) -> tuple[str, ...]:
    """Formats from options, each of which may be a list with commas; none given is the folder. Raises ConfigError."""
    names = pieces(given)
    if given and not names:
        raise ConfigError(f"--format {', '.join(map(repr, given))} names no format; known: {', '.join(PLACES)}.")
    for name in names:
        if name not in PLACES and name not in ALIASES:
            raise ConfigError(unknown_name("format", name, (*PLACES, *ALIASES)))
    return tuple(dict.fromkeys(ALIASES.get(name, name) for name in names)) or (FOLDER,)


def check_encoder(run: Path, weights: str | None) -> Path:
    """The folder of the encoder, checked. Raises RunFolderError."""
    with as_written(run):
        folder = _encoder_folder(run, weights)
    load_exported(folder)
    return folder


def export(run: Path, request: Request) -> list[str]:
    """Do what `taskrl export` was asked for; what it prints. Raises ConfigError or RunFolderError."""
    _check(request)
    if request.out is None:
        folder = check_encoder(run, request.weights)
        checked = "Checked: its files are those of its manifest, and its weights load into its architecture."
        return [f"Encoder: {folder}", checked, f"How to load it without taskrl: {folder / README}"]
    return [line for exported in write_all(run, request, request.out) for line in lines(exported)]


def write_all(run: Path, request: Request, out: Path) -> list[Exported]:
    """Write every format, or none of them: each is checked against the encoder before anything gets its name.

    One format is written to `out` itself, several into a new folder there. Raises ConfigError or
    RunFolderError, one sentence each.
    """
    refuse_existing(out)
    with as_written(run):
        if _is_encoder(run) and request.license_name == UNKNOWN_LICENSE:
            known = read_json(run / CONFIG).get("pretrained_cfg", {}).get("license", UNKNOWN_LICENSE)
            request = replace(request, license_name=known)
        source = None if request.formats == (POLICY,) else _open(run, request.weights)
    where = None if request.register is None else _registration(run, request)
    if len(request.formats) == 1:
        return [_write(request.formats[0], run, source, out, out.absolute(), request, where)]
    with new_folder(out) as draft:
        written = {
            name: _write(name, run, source, draft / PLACES[name], out.absolute() / PLACES[name], request, where)
            # MLflow last: what is registered cannot be taken back when another format fails
            for name in sorted(request.formats, key=lambda name: name == MLFLOW)
        }
        return [written[name] for name in request.formats]


def _check(request: Request) -> None:
    """Raises ConfigError for options that do not fit each other, before anything is written."""
    out = request.out
    if out is None and request.formats != (FOLDER,):
        raise ConfigError(f"--format {','.join(request.formats)} writes something new; say where with --out.")
    if out is None and request.license_name != UNKNOWN_LICENSE:
        raise ConfigError(f"--license {request.license_name} is for what is written; say where with --out.")
    if request.weights not in (None, BEST, LAST, EMA):
        raise ConfigError(f"--weights is {request.weights!r}; name {BEST}, {LAST} or {EMA}.")
    if request.weights is not None and request.formats == (POLICY,):
        raise ConfigError(
            f"--weights {request.weights} chooses an encoder, and a policy has none; leave --weights out."
        )
    if not re.fullmatch(LICENSE, request.license_name):
        raise ConfigError(
            f"--license is {request.license_name!r}; name one as Hugging Face does, e.g. mit or apache-2.0."
        )
    if request.register is not None and MLFLOW not in request.formats:
        raise ConfigError("--register registers an MLflow model; add --format mlflow.")
    if request.register is not None and not re.fullmatch(MODEL_NAME, request.register):
        raise ConfigError(f"--register {request.register!r} is no name of a model; give one without / and :.")
    if request.alias is not None and not re.fullmatch(ALIAS, request.alias):
        raise ConfigError(
            f"--alias is {request.alias!r}; name one of letters, digits, _ and -, other than latest, v1, v2 and so on."
        )
    if request.register is None and (request.alias or request.tracking_uri):
        raise ConfigError("--alias and --tracking-uri say how a model is registered; add --register NAME.")
    if out is not None and len(request.formats) == 1 and request.formats[0] in (ONNX, PT2):
        suffix = Path(PLACES[request.formats[0]]).suffix
        if out.suffix != suffix:
            raise ConfigError(f"--out {str(out)!r} is to be a file of format {request.formats[0]}; end it in {suffix}.")
    if ONNX in request.formats:
        require_onnx()


def _write(
    name: str, run: Path, source: Source | None, draft: Path, path: Path, request: Request, where: Registration | None
) -> Exported:
    """Write one format to `draft`, which will be called `path`."""
    if name == POLICY:
        with as_written(run):
            write_policy(RunFolder.open(run), draft, request.license_name)
        snippet = f"taskrl pretrain --policy {typed(path)} --data ./images --out runs/again\n"
        return Exported(format=name, path=path, snippet=snippet, difference=None)
    assert source is not None
    config, notes = source.config, _stem_notes(source.config)
    if name == FOLDER:
        difference = _write_folder(source, draft, request.license_name)
        snippet = folder_snippet(config, path)
    elif name == ONNX:
        difference = write_onnx(source.encoder, config, draft, sha256=source.sha256)
        snippet, notes = onnx_snippet(config, path), ()
    elif name == PT2:
        difference = write_pt2(source.encoder, config, draft)
        snippet = pt2_snippet(config, path)
        notes = ("reading a .pt2 file can run code: read none that you do not trust",)
    else:
        difference, version = _write_mlflow(source, draft, request.license_name, where)
        snippet, notes = model_snippet(config, str(path)), ()
        if where is not None:
            registered = f"models:/{where.name}" + (f"@{where.alias}" if where.alias else f"/{version}")
            notes = (f"registered as {registered} (version {version}) at {where.uri}",)
            snippet += f"```\nor, from the registry:\n```python\n{model_snippet(config, registered, where.uri)}"
    return Exported(format=name, path=path, snippet=snippet, difference=difference, notes=notes)


def _write_folder(source: Source, folder: Path, license_name: str) -> float:
    return export_encoder(
        source.encoder,
        source.config,
        folder,
        example=check_images(source.config),
        card=source.card,
        license_name=license_name,
    ).max_difference


def _write_mlflow(
    source: Source, folder: Path, license_name: str, where: Registration | None
) -> tuple[float, str | None]:
    """Write the model and register it; a model that cannot be registered is not kept."""
    with tempfile.TemporaryDirectory(prefix="taskrl-export-") as scratch:
        encoder = Path(scratch) / "encoder"
        _write_folder(source, encoder, license_name)
        return write_model(source.encoder, source.config, encoder, folder, where)


def _stem_notes(config: Mapping[str, Any]) -> tuple[str, ...]:
    if config["architecture"] == "small" or not stem_changes(config):
        return ()
    return (f"not quite torchvision's {config['architecture']}: {'; '.join(stem_changes(config))}",)


def _open(run: Path, weights: str | None) -> Source:
    folder = _encoder_folder(run, weights)
    encoder = load_exported(folder)
    config = read_json(folder / CONFIG)
    card = config.pop("card", {})
    card |= _run_facts(run, card)
    config["feature_dim"] = encoder.feature_dim
    check_images(config)  # what every format is checked with
    sha256 = str(read_json(folder / MANIFEST)["files"][WEIGHTS]["sha256"])
    return Source(encoder=encoder, config=config, card=card, sha256=sha256)


def _is_encoder(path: Path) -> bool:
    """Whether this is a folder that export, finetune or distill wrote, and no run."""
    return (path / CONFIG).is_file() and not RunFolder(path).config_file.is_file()


def _encoder_folder(run: Path, weights: str | None) -> Path:
    """The encoder's folder in a run or a comparison, or `run` where it is one. Raises RunFolderError."""
    if _is_encoder(run):
        if weights is not None:
            raise RunFolderError(f"{str(run)!r} is an encoder, not a run that may have several; leave --weights out.")
        return run
    main = RunFolder.open(run).encoder
    if is_comparison(run) and comparison_result(run)["encoder"] is None:
        raise RunFolderError(
            f"The comparison {str(run)!r} chose no encoder, since it has no verdict; give learned to its --methods."
        )
    if weights is None:
        return main
    for folder in (main, *kept_folders(main)):
        if (folder / CONFIG).is_file() and weights in str(read_json(folder / CONFIG).get("card", {}).get("checkpoint")):
            return folder
    if weights == EMA:
        raise RunFolderError(
            f"{str(run)!r} holds no averaged encoder; one is kept where training began with --set final.ema=0.999."
        )
    raise RunFolderError(f"{str(run)!r} holds no encoder that is known to be the {weights} one; leave --weights out.")


def _run_facts(run: Path, card: Mapping[str, Any]) -> dict[str, Any]:
    """What result.json adds to the card of an encoder: accuracies of the same encoder, and what its search cost."""
    file = RunFolder(run).result_file
    if _is_encoder(run) or not file.is_file():
        return {}
    rows = read_json(file).get("rows", [])
    keys = ("generator", "train_seed", "search_seed")
    found = [row for row in rows if all(row.get(key) == card.get(key) for key in keys)]
    if len(found) != 1:
        return {}
    facts = {key: found[0][key] for key in FROM_ROW if found[0].get(key) is not None}
    if card.get("decision") != found[0].get("scored_decision") or card.get("checkpoint") == EMA:
        facts = {key: value for key, value in facts.items() if not key.endswith("accuracy")}
    return facts


def _registration(run: Path, request: Request) -> Registration:
    """Where to register. Raises ConfigError or RunFolderError where that is unknown."""
    assert request.register is not None
    folder = RunFolder(run.absolute()) if _is_encoder(run) else RunFolder.open(run)
    experiment = TrackingConfig().experiment if _is_encoder(run) else folder.config().tracking.experiment
    note, run_id, uri = folder.checkpoints / "tracking.json", None, request.tracking_uri
    if uri is None:
        if not (folder.path / DATABASE_NAME).is_file():
            raise ConfigError(f"{str(run)!r} has no {DATABASE_NAME} to register in; say where with --tracking-uri URI.")
        repair_moved_run(folder.path)
        uri = sqlite_uri(folder.path / DATABASE_NAME)
        run_id = read_json(note).get("run_id") if note.is_file() else None
    database = sqlite_path(uri)
    return Registration(
        uri=uri,
        name=request.register,
        alias=request.alias,
        experiment=experiment,
        run_id=run_id,
        artifact_root=None if database is None else database.parent / ARTIFACTS_NAME,
    )


def lines(exported: Exported) -> list[str]:
    """What the terminal shows of one format: where it is, how it was checked, and how to load it."""
    language, without = ("bash", "") if exported.format == POLICY else ("python", " without taskrl")
    text = [f"{'Encoder' if exported.format == FOLDER else exported.format}: {exported.path}"]
    if exported.difference is not None:
        text.append(f"Checked at batches of 1, 2 and 7: features differ by at most {exported.difference:.1g}.")
    text += [f"Note: {note}." for note in exported.notes]
    if exported.format in (FOLDER, POLICY):
        text.append(f"More in {exported.path / README}")
    return [*text, f"How to use it{without}:", f"```{language}\n{exported.snippet}```"]
