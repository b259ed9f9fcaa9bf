"""Model card of an export: Markdown on how to use it, its training, results and licence."""

import re
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from mae.base.files import read_json
from mae.base.printable import printable
from mae.base.rows import read_rows
from mae.config.sections import Config, DataConfig
from mae.evaluation.results import BASELINE, PRETRAINED, TRAINED_ENCODERS, budget_name
from mae.evaluation.run_record import interval, number
from mae.export.contract import ExportFiles, ExportRequest
from mae.networks.vit import encoder_shape, timm_encoder
from mae.objectives import registry
from mae.objectives.declaration import Card, Declaration
from mae.pretrained_weights.init_record import data_names, shown_source
from mae.pretrained_weights.licence import OWN_TERMS
from mae.training.checkpoint.checkpoint_files import TrainingState
from mae.training.checkpoint.run import Run

CARD = """\
---
{metadata}
---
# {name}, {heading}

## Use

```python
{code}
```

{files}

{images_come} {proof}.

## Training

| | |
|---|---|
| input | {height} x {width} px, {channels} channel(s) of {depth}{resized} |
| normalisation | mean {mean}, std {std} |
| {model} |
{training}
{results}## Licence

{licence}
"""

TRAINING = """\
| training | {start}, {samples:,} images seen in {step:,} steps of {batch_size} |
{history}| objective | {objective} |
| augmentation | {crop}{flip} |
| optimizer | {optimizer}, betas {betas}, weight decay {weight_decay}, {rate}, seed {seed} |
| data | {images}{shards}; fingerprint {fingerprint} |
"""
ADOPTED = """\
| training | not by mae: weights {start}, in another format |
{history}"""

FREE = "To be chosen by the owner of the training data"
"""licence of weights trained from scratch"""

OPTIMIZERS = {"adamw": "AdamW"}
"""names of optimizers that are spelled differently from timm's"""


class CardFacts(NamedTuple):
    """Facts about a run up to the exported checkpoint."""

    images: int | None
    """number of training images; None: not recorded"""
    results: list[tuple[str, str]]
    """(measurement, value)"""
    init: dict[str, Any]
    """the run's init.json, the record of its initial weights; empty: trained from scratch"""
    is_adopted: bool = False
    """these are the initial weights themselves, in another format"""


def read_facts(run: Run, state: TrainingState, declared: Declaration) -> CardFacts:
    """Read a run's results up to `state`; missing and damaged files are ignored.

    `declared` is the declaration of the run's objective.
    """
    metrics = _last_row(run.metrics_file, state.step)
    health = _last_row(run.health_file, state.step)
    results = declared.results(metrics, health)
    for path in sorted(run.folder.glob("*.json")):
        report = read_json(path)
        if report.get("step") == state.step:
            results += _labelled_results(path.stem, report)
    epoch, samples = number(metrics, "epoch"), number(metrics, "samples")
    images = round(samples / epoch) if samples and epoch else None
    return CardFacts(images, results, read_json(run.folder / "init.json"))


def model_card(request: ExportRequest, facts: CardFacts, written: ExportFiles, proof: str) -> str:
    """Model card: the metadata block that model hubs read, and Markdown.

    `proof` is the sentence on the check of the export.
    """
    config, model, state = request.config, request.model, request.state
    data, train, optim = config.data, config.train, config.optim
    declared = registry.declaration(config.objective)
    init = _initial_weights(request, facts)
    card = declared.card(config, is_from_scratch=not init)
    start, licence = _origin_and_licence(init, facts.is_adopted)
    stage = request.model.first_stage
    if stage and "from" in stage.init:
        terms = _first_stage_terms(declared.first_stage, dict(stage.init))
        licence = f"{licence} {terms}" if init else terms
    if facts.is_adopted:
        card = card._replace(heading=f"weights {start}, converted by mae", text="", tags=())
    training = (ADOPTED if facts.is_adopted else TRAINING).format(
        start=start,
        history=f"| pretraining | {cell(str(init['history']))} |\n" if init.get("history") else "",
        samples=state.samples,
        step=state.step,
        batch_size=train.batch_size,
        objective=_objective_row(config, card),
        crop=_crop(data),
        flip=", horizontal flip" if data.flip else "",
        optimizer=OPTIMIZERS.get(optim.name, optim.name),
        betas=list(optim.betas),
        weight_decay=optim.weight_decay,
        rate=f"blr {optim.blr}" if optim.lr is None else f"lr {optim.lr}",
        seed=train.seed,
        images=f"{facts.images:,} images of " if facts.images else "",
        shards=data_names(data),
        fingerprint=state.data[:16],
    )
    return CARD.format(
        metadata="\n".join(_metadata(request, written, declared, card, init, facts)),
        name=config.objective if timm_encoder(model) is None else request.vit.encoder,
        heading=f"{card.heading}\n\n{card.text}" if card.text else card.heading,
        code=written.code.rstrip(),
        files=written.files,
        images_come=written.images,
        proof=proof[0].upper() + proof[1:],
        height=model.img_size[0],
        width=model.img_size[1],
        resized=_resized(request),
        channels=data.in_chans,
        depth="floats" if data.is_float else f"{data.bits} bits",
        mean=list(data.mean),
        std=list(data.std),
        model=_model_row(request, declared),
        training=training,
        results=_results_table(facts),
        licence=licence,
    )


def cell(text: str) -> str:
    """Text of a run's files as Markdown on one line: no table, link or tag of its own."""
    return printable(text).replace("|", "\\|").replace("<", "&lt;").replace("[", "\\[")


def _labelled_results(name: str, report: dict[str, Any]) -> list[tuple[str, str]]:
    """(measurement, value) of an evaluation on labelled images, trained encoders only."""
    if report.get("untrained"):
        return []
    rows, images = report.get("results"), report.get("test_images", report.get("images"))
    found = []
    for row in rows if isinstance(rows, list) else [report | {"encoder": PRETRAINED}]:
        if not isinstance(row, dict) or row.get("encoder", PRETRAINED) not in TRAINED_ENCODERS:
            continue
        if (iou := number(row, "mean_iou")) is not None:  # a segmentation
            measurement = f"{name}, {row.get('classifier')} of frozen tokens, at {row.get('of')}"
            value = f"mean IoU {iou:.1%}{_uncertainty(row, 'mean_iou_interval', images)}"
            found.append((measurement, value))
        elif (accuracy := number(row, "accuracy")) is not None:
            of = [name, *filter(None, [row.get("feature")]), f"labels: {budget_name(row)}"]
            deviation = f" ± {100 * row['deviation']:.1f}" if row.get("deviation") else ""
            value = f"test accuracy {accuracy:.1%}{deviation}"
            found.append((", ".join(of), f"{value}{_uncertainty(row, 'interval', images)}"))
    constant = report.get(BASELINE, {})
    share = number(constant, "accuracy") if isinstance(constant, dict) else None
    if share is None:
        share = number(report, "commonest_accuracy")
    if found and share is not None:
        found.append((f"{name}, always the commonest class", f"test accuracy {share:.1%}"))
    return found


def _uncertainty(row: dict[str, Any], key: str, images: object) -> str:
    """` (low–high, n images)`, as far as recorded."""
    bounds = interval(row, key)
    parts = ["–".join(f"{100 * bound:.1f}" for bound in bounds)] if bounds else []
    parts += [f"{images:,} images"] if isinstance(images, int) else []
    return f" ({', '.join(parts)})" if parts else ""


def _last_row(path: Path, step: int) -> dict[str, Any]:
    """Last row of a .jsonl file up to `step`; empty where there is none."""
    found: dict[str, Any] = {}
    with suppress(OSError):
        for row in read_rows(path).rows:
            at = row.get("step")
            found = row if isinstance(at, int | float) and at <= step else found
    return found


def _initial_weights(request: ExportRequest, facts: CardFacts) -> dict[str, Any]:
    """Record of the initial weights, at least their name; empty: trained from scratch."""
    source = request.config.init.from_
    return facts.init or ({"from": source} if source else {})


def _model_row(request: ExportRequest, declared: Declaration) -> str:
    """Row of the table on the timm encoder, or on a model without one."""
    vit = timm_encoder(request.model)
    if vit is None:
        millions = sum(p.numel() for p in request.model.parameters()) / 1e6
        return f"model | {declared.describe(request.config, f'{millions:.2f} M parameters')}"
    millions = sum(p.numel() for p in vit.parameters()) / 1e6
    patch = " x ".join(map(str, encoder_shape(vit).patch_size))
    kind = cell(f"{request.vit.encoder} {request.vit.encoder_kwargs or ''}")
    return f"encoder | {kind}, patch {patch}, {millions:.2f} M parameters"


def _crop(data: DataConfig) -> str:
    if data.scale == data.ratio == (1.0, 1.0):
        return "largest crop of each image"
    ratio = [round(side, 4) for side in data.ratio]
    return f"random resized crop, area {list(data.scale)}, ratio {ratio}"


def _objective_row(config: Config, card: Card) -> str:
    decay = config.train.ema
    return card.objective + (f", weights averaged with decay {decay}" if decay else "")


def _resized(request: ExportRequest) -> str:
    height, width = request.trained_size
    if request.model.img_size == request.trained_size:
        return ""
    return f"; trained at {height} x {width} px, positions interpolated"


def _metadata(
    request: ExportRequest,
    written: ExportFiles,
    declared: Declaration,
    card: Card,
    init: dict[str, Any],
    facts: CardFacts,
) -> list[str]:
    lines = [f"library_name: {written.library}", f"pipeline_tag: {card.task}"]
    others = [
        one for one in map(registry.declaration, registry.OBJECTIVES) if one.has_trained(init)
    ]
    trained = [*others, *([] if facts.is_adopted else [declared])]
    tags = [written.library] + ["vision-transformer"] * (timm_encoder(request.model) is not None)
    tags += [one.tag for one in dict.fromkeys(trained) if one.tag]
    lines.append(f"tags: [{', '.join([*tags, *card.tags])}]")
    stage = request.model.first_stage
    if stage and not init.get("non_commercial") and stage.init.get("license"):
        init = init | dict(stage.init)
    licence = str(init.get("license") or "").lower()
    # Hubs accept such names of licences only; `licence_in` reads the other two keys back.
    name = re.sub(r"[^a-z0-9.]+", "-", licence).strip("-")
    is_listed = licence == name and not licence.endswith(OWN_TERMS)
    if licence:
        lines += [f"license: {licence}"] if is_listed else ["license: other"]
    if name and not is_listed:
        lines.append(f"license_name: {name}")
    if init.get("non_commercial"):
        lines.append("non_commercial: true")
    return lines


def _results_table(facts: CardFacts) -> str:
    if not facts.results:
        return ""
    rows = "".join(f"| {cell(name)} | {cell(value)} |\n" for name, value in facts.results)
    return f"## Results\n\n| | |\n|---|---|\n{rows}\n"


def _first_stage_terms(key: str, init: dict[str, Any]) -> str:
    """Paragraph on weights of others in the frozen first stage, by its record."""
    origin = cell(shown_source(str(init["from"]))).replace("`", "'")
    licence = cell(str(init.get("license") or "unknown, ask their authors"))
    if init.get("from_scratch") and not init.get("license"):
        licence = "that of the training data; no weights of others were used"
    notes = "".join(f" {cell(str(note))}." for note in init.get("notes", []))
    commerce = " **It forbids commercial use of those weights, and so of these.**"
    return (
        f"Trained on a frozen {key} with weights of `{origin}`.{notes} Licence of those weights: "
        f"**{licence}**.{commerce * bool(init.get('non_commercial'))}"
    )


def _origin_and_licence(init: dict[str, Any], is_adopted: bool) -> tuple[str, str]:
    """(origin of the weights, paragraph on their licence)."""
    if not init:
        return "from scratch", f"{FREE}; no other weights were used."
    origin = cell(shown_source(str(init.get("from", "other weights")))).replace("`", "'")
    loaded, digest = init.get("keys_loaded"), init.get("sha256")
    details = ", ".join(
        [f"{loaded} tensors"] * (loaded is not None) + [f"sha256 {digest}"] * (digest is not None)
    )
    began = "These are the weights of" if is_adopted else "Training started from"
    text = f"{began} `{origin}`{f' ({details})' if details else ''}"
    if init.get("from_scratch") and not init.get("license"):
        return (
            f"from `{origin}`",
            f"{FREE}; no weights of others were used. {text}, trained from scratch.",
        )
    licence = cell(str(init.get("license") or "unknown, ask their authors"))
    text += f". Licence of those weights: **{licence}**. "
    text += (
        "**It forbids commercial use of those weights, and so of these.**"
        if init.get("non_commercial")
        else "It applies to these weights too."
    )
    return f"from `{origin}`", text
