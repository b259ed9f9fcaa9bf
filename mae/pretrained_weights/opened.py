"""Models to be used: of a run, a checkpoint, an export, a file of weights, or a hub.

`open_model` resolves what the commands take as RUN, which is what `init.from` takes.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mae.base.errors import UserError
from mae.base.files import read_json, run_folder
from mae.config.sections import Config
from mae.data.class_names import Classes
from mae.objectives.base import Objective
from mae.objectives.implementation import AdoptedModel
from mae.objectives.registry import OBJECTIVES, implementation
from mae.pretrained_weights.architecture import WeightOptions
from mae.pretrained_weights.find import MODEL_FILES, find_trained_model, find_weights
from mae.pretrained_weights.init_record import WeightsSource, record_initial_weights
from mae.pretrained_weights.licence import Licence, folder_licence
from mae.pretrained_weights.weight_files import Weights
from mae.training.checkpoint.checkpoint_files import TrainingState
from mae.training.checkpoint.run import find_run
from mae.training.checkpoint.trained import (
    CONFIG,
    is_plain,
    load_plain,
    load_pretrained,
    refuse_probe,
)

HUBS = ("timm:", "hf:")
"""first letters of sources that are no paths"""
NOTHING = WeightOptions()
TIMM_EPS = 1e-6
"""epsilon of the LayerNorms of timm's plain ViTs"""


class OpenedModel(NamedTuple):
    """Model of a source, on the CPU, in evaluation mode."""

    config: Config
    objective: Objective
    state: TrainingState | None
    """training by this package up to these weights; None: they are of others"""
    has_decoder: bool
    """all parts that training had are there"""
    licence: Licence
    lines: Sequence[str] = ()
    """lines for the user: counts, assumptions and the licence"""
    assumed: Sequence[str] = ()
    """assumptions on weights that do not record it"""
    class_names: Sequence[str] = ()
    """names in the order of the logits; empty: none, or not known"""
    is_probe: bool = False
    """a linear probe's head on an encoder that was not trained with it"""
    init: dict[str, Any] = {}
    """record of weights of others, as in a run's init.json"""

    @property
    def step(self) -> int | None:
        """Steps of training; None: unknown."""
        return self.state.step if self.state else None


def is_run(source: Path) -> bool:
    """Report whether `source` is a run folder, or one of a run's checkpoints."""
    return (run_folder(source) / "config.yaml").exists()


def is_hub(source: Path) -> bool:
    """Report whether `source` is `timm:NAME` or `hf:ID` instead of a path."""
    return str(source).startswith(HUBS)


def absolute_source(source: Path) -> Path:
    """The same source from any working directory."""
    return source if is_hub(source) else source.expanduser().resolve()


def results_folder(source: Path, out: Path | None = None) -> Path:
    """Folder of files about a model: the run's folder, also for one of its checkpoints.

    Other sources stay unchanged: the folder of the file `out`, or `SOURCE-evaluations` beside the
    export or file, for models of hubs in the working directory.
    """
    if is_run(source):
        return find_run(source).folder
    if out:
        return out.parent
    if is_hub(source):
        name = str(source).partition(":")[2].replace("/", "-")
        return Path(f"{name}-evaluations")
    path = absolute_source(source)
    return path.with_name(f"{path.name}-evaluations")


def open_model(
    source: Path,
    options: WeightOptions = NOTHING,
    *,
    with_decoder: bool = False,
    allow_probe: bool = False,
    keep_eps: bool = True,
) -> OpenedModel:
    """Load the model that `source` holds, with its own settings, or inferred ones.

    Args:
        source: run folder, checkpoint, export, folder of a hub's format, file of weights, or
            `timm:NAME` or `hf:ID`.
        options: properties of weights that do not record them.
        with_decoder: load the decoder, where a file of weights has one.
        keep_eps: build the model with the LayerNorm epsilon of the source; else, for exports that
            have no place for it, with that of its architecture in timm.
        allow_probe: also open runs of probes, whose encoder is another run's.

    Raises UserError where `source` is none of these, is a probe's run, has no checkpoint yet, or
    where a tensor is missing, unknown, damaged or does not fit.
    """
    if is_run(source):
        _refuse_options(source, options)
        if not allow_probe:
            refuse_probe(source)
        config, objective, state = load_pretrained(source)
        folder = find_run(source).folder
        return _with_licence(OpenedModel(config, objective, state, True, _run_licence(folder)))
    source = _model_folder(source)
    try:
        trained = find_trained_model(str(source))
        if trained and is_plain(read_json(trained.folder / CONFIG)):
            _refuse_options(source, options)
            config, objective, state = load_plain(trained.folder)
            licence = folder_licence(trained.folder, str(source))
            plain = OpenedModel(
                config, objective, state, True, licence, init=_record(source, licence)
            )
            return _with_licence(plain)
        weights = find_weights(str(source))
    except UserError as error:
        raise UserError(str(error).removeprefix("init.from: ")) from None
    eps = weights.geometry.eps
    if not keep_eps and weights.architecture is None and eps not in (None, TIMM_EPS):
        note = f"the LayerNorm epsilon, {eps}, is replaced by {TIMM_EPS}, that of the export"
        weights = weights._replace(
            notes=(*weights.notes, note), geometry=weights.geometry._replace(eps=None)
        )
    return _adopted(weights, options, with_decoder)


def model_classes(opened: OpenedModel, source: Path) -> Classes | None:
    """Classes of a model, by the names in its settings, or in a classes.txt beside its file.

    None: it is no classifier.
    """
    place = source.parent if source.is_file() else find_run(source).folder
    known = implementation(opened.config.objective).classes(opened.config, place)
    if known and len(opened.class_names) == known.count:
        return Classes(known.count, tuple(opened.class_names))
    return known


def _model_folder(source: Path) -> Path:
    """Folder with the settings of a file in it, where there are any; else `source`."""
    folder = source.parent
    is_described = source.name in MODEL_FILES and (
        (folder / CONFIG).exists() or is_run(folder.absolute())
    )
    return folder.absolute() if is_described and source.is_file() else source


def _record(source: Path, licence: Licence) -> dict[str, Any]:
    """Record of the licence of weights for model cards; empty where it is not known."""
    if not (licence.name or licence.non_commercial):
        return {}
    return {
        "from": str(source),
        "license": licence.name,
        "non_commercial": licence.non_commercial,
        "from_scratch": licence.from_scratch,
    }


def _run_licence(folder: Path) -> Licence:
    return folder_licence(folder, "") if (folder / "init.json").exists() else Licence()


def _with_licence(opened: OpenedModel) -> OpenedModel:
    return opened._replace(lines=[*opened.lines, *licence_lines(opened.licence)])


def licence_lines(licence: Licence) -> list[str]:
    """Warning about weights that must not be used commercially; else nothing."""
    name = (licence.name or "unknown").upper()
    return [f"licence {name}: not for commercial use"] if licence.non_commercial else []


def _refuse_options(source: Path, options: WeightOptions) -> None:
    """Raise UserError for an option that a source with settings of its own decides."""
    for key, value in options._asdict().items():
        if value not in (None, ()):
            raise UserError(f"--{key.replace('_', '-')}: {source} has settings of its own")


def _adopted(weights: Weights, options: WeightOptions, with_decoder: bool) -> OpenedModel:
    """Build the model that holds `weights`, of the first objective that has a place for them."""
    wanted = weights if with_decoder else weights._replace(decoder={})
    try:
        found = _first(wanted, options)
    except UserError as error:
        raise UserError(str(error).removeprefix("init.from: ")) from None
    if found is None:
        raise UserError(f"{weights.name}: no objective has a place for these weights")
    config = found.config
    init = config.init.model_copy(update={"from_": weights.name})
    record = record_initial_weights(
        WeightsSource(weights.name, weights.sha256, weights.licence, weights.history),
        found.parts,
        found.skipped,
        [],
        [*weights.notes, *found.notes, *(f"assumed: {text}" for text in found.assumed)],
    )
    counts = record.lines[0].removeprefix("init").strip()
    lines = [counts, *record.record["notes"]]
    return _with_licence(
        OpenedModel(
            config=config.model_copy(update={"init": init}),
            objective=found.objective.eval(),
            state=None,
            has_decoder=found.has_decoder,
            licence=weights.licence,
            lines=lines,
            assumed=found.assumed,
            class_names=weights.class_names,
            is_probe=found.is_probe,
            init=record.record,
        )
    )


def _first(weights: Weights, options: WeightOptions) -> AdoptedModel | None:
    for name in OBJECTIVES:
        if (found := implementation(name).adopt(weights, options)) is not None:
            return found
    return None


def log_lines(opened: OpenedModel, log: Callable[[str], None]) -> None:
    """Log what the user must know of a model: counts, assumptions and the licence."""
    for line in opened.lines:
        log(f"weights {line}")
