"""Results and first weights of a run, for the model card; any file may be absent or cut off."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from mae.base.files import read_json
from mae.config.sections import Config
from mae.evaluation.diagnosis import interval, number
from mae.evaluation.results import PRETRAINED, TRAINED_ENCODERS, budget_name
from mae.export.subject import Subject, Written
from mae.networks.vit import timm_encoder
from mae.objectives import registry
from mae.objectives.declaration import Card, Declaration
from mae.pretrained_weights.record import data_names, shown_source
from mae.training.checkpoint.files import TrainingState
from mae.training.checkpoint.run import Run


class Facts(NamedTuple):
    """Of the checkpoint that is exported, not of later ones."""

    images: int | None
    """how many there are to train on"""
    results: list[tuple[str, str]]
    """what was measured, and what came out"""
    init: dict[str, Any]
    """the run's init.json: which weights it started from; empty where it started from scratch"""


def read_facts(run: Run, state: TrainingState, declared: Declaration) -> Facts:
    """Whatever can be read; `declared`: the run's objective."""
    metrics = _row_until(run.metrics_file, state.step)
    health = _row_until(run.health_file, state.step)
    results = declared.results(metrics, health)
    for path in sorted(run.folder.glob("*.json")):
        report = read_json(path)
        if report.get("step") == state.step:
            results += _accuracies(path.stem, report)
    epoch, samples = number(metrics, "epoch"), number(metrics, "samples")
    images = round(samples / epoch) if samples and epoch else None
    return Facts(images, results, read_json(run.folder / "init.json"))


def _accuracies(name: str, report: dict[str, Any]) -> list[tuple[str, str]]:
    """What a report on labelled images says of this encoder; of others too where it compares."""
    if report.get("untrained"):
        return []
    rows, images = report.get("results"), report.get("test_images", report.get("images"))
    found = []
    for row in rows if isinstance(rows, list) else [report | {"encoder": PRETRAINED}]:
        if not isinstance(row, dict) or row.get("encoder", PRETRAINED) not in TRAINED_ENCODERS:
            continue
        if (iou := number(row, "mean_iou")) is not None:  # of a segmentation
            what = f"{row.get('classifier')} of frozen tokens, at {row.get('of')}"
            told = f"mean IoU {iou:.1%}{_certainty(row, 'mean_iou_interval', images)}"
            found.append((f"{name}, {what}", told))
        elif (accuracy := number(row, "accuracy")) is not None:
            of = [name, *filter(None, [row.get("feature")]), f"labels: {budget_name(row)}"]
            deviation = f" ± {100 * row['deviation']:.1f}" if row.get("deviation") else ""
            told = f"{accuracy:.1%}{deviation} of the test images right"
            found.append((", ".join(of), f"{told}{_certainty(row, 'interval', images)}"))
    return found


def _certainty(row: dict[str, Any], key: str, images: object) -> str:
    """` (low–high, n images)`, as far as it is on record."""
    bounds = interval(row, key)
    told = ["–".join(f"{100 * bound:.1f}" for bound in bounds)] if bounds else []
    told += [f"{images:,} images"] if isinstance(images, int) else []
    return f" ({', '.join(told)})" if told else ""


def _row_until(path: Path, step: int) -> dict[str, Any]:
    """The last row of a .jsonl file that is not of a later step."""
    found: dict[str, Any] = {}
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            row = json.loads(line)
            found = row if row["step"] <= step else found
        except (ValueError, KeyError, TypeError):
            continue
    return found


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
| input | {height} x {width} px, {channels} channel(s) of {bits} bits{resized} |
| normalisation | mean {mean}, std {std} |
| {model} |
| training | {start}, {samples:,} images seen in {step:,} steps of {batch_size} |
{history}| objective | {objective} |
| augmentation | random resized crop, area {scale}, ratio {ratio}{flip} |
| optimizer | {optimizer}, betas {betas}, weight decay {weight_decay}, {rate}, seed {seed} |
| data | {images}{shards}; fingerprint {fingerprint} |

{results}## Licence

{licence}
"""

FREE = "That of the training data's owner to choose"

OPTIMIZERS = {"adamw": "AdamW"}
"""written otherwise than timm does"""


def model_card(subject: Subject, facts: Facts, written: Written, proof: str) -> str:
    """Markdown under the metadata block that model hubs read."""
    config, model, state = subject.config, subject.model, subject.state
    data, train, optim = config.data, config.train, config.optim
    declared = registry.declaration(config.objective)
    init = _init(subject, facts)
    card = declared.card(config, is_from_scratch=not init)
    start, licence = _origin(init)
    return CARD.format(
        metadata="\n".join(_metadata(subject, written, declared, card, init)),
        name=config.objective if timm_encoder(model) is None else subject.vit.encoder,
        heading=f"{card.heading}\n\n{card.text}" if card.text else card.heading,
        code=written.code.rstrip(),
        files=written.files,
        images_come=written.images,
        proof=proof[0].upper() + proof[1:],
        height=model.img_size[0],
        width=model.img_size[1],
        resized=_resized(subject),
        channels=data.in_chans,
        bits=data.bits,
        mean=list(data.mean),
        std=list(data.std),
        model=_model(subject, declared),
        start=start,
        history=f"| pretraining | {init['history']} |\n" if init.get("history") else "",
        samples=state.samples,
        step=state.step,
        batch_size=train.batch_size,
        objective=_objective(config, card),
        scale=list(data.scale),
        ratio=[round(r, 4) for r in data.ratio],
        flip=", horizontal flip" if data.flip else "",
        optimizer=OPTIMIZERS.get(optim.name, optim.name),
        betas=list(optim.betas),
        weight_decay=optim.weight_decay,
        rate=f"blr {optim.blr}" if optim.lr is None else f"lr {optim.lr}",
        seed=train.seed,
        images=f"{facts.images:,} images of " if facts.images else "",
        shards=data_names(data),
        fingerprint=state.data[:16],
        results=_results(facts),
        licence=licence,
    )


def _init(subject: Subject, facts: Facts) -> dict[str, Any]:
    """What is on record of the first weights, be it only their name; empty: from scratch."""
    source = subject.config.init.from_
    return facts.init or ({"from": source} if source else {})


def _model(subject: Subject, declared: Declaration) -> str:
    """The table's row on the encoder, or on a model without one of timm's."""
    vit = timm_encoder(subject.model)
    if vit is None:
        millions = sum(p.numel() for p in subject.model.parameters()) / 1e6
        return f"model | {declared.describe(subject.config, f'{millions:.2f} M parameters')}"
    millions = sum(p.numel() for p in vit.parameters()) / 1e6
    patch = " x ".join(map(str, vit.patch_embed.patch_size))
    kind = f"{subject.vit.encoder} {subject.vit.encoder_kwargs or ''}"
    return f"encoder | {kind}, patch {patch}, {millions:.2f} M parameters"


def _objective(config: Config, card: Card) -> str:
    decay = config.train.ema
    return card.objective + (f", weights averaged with decay {decay}" if decay else "")


def _resized(subject: Subject) -> str:
    height, width = subject.trained_size
    if subject.model.img_size == subject.trained_size:
        return ""
    return f"; positions interpolated from those of {height} x {width} px, where it was trained"


def _metadata(
    subject: Subject, written: Written, declared: Declaration, card: Card, init: dict[str, Any]
) -> list[str]:
    lines = [f"library_name: {written.library}", f"pipeline_tag: {card.task}"]
    others = [
        one for one in map(registry.declaration, registry.OBJECTIVES) if one.has_trained(init)
    ]
    tags = [written.library] + ["vision-transformer"] * (timm_encoder(subject.model) is not None)
    tags += [one.tag for one in dict.fromkeys([*others, declared]) if one.tag]
    lines.append(f"tags: [{', '.join([*tags, *card.tags])}]")
    licence = str(init.get("license") or "").lower()
    # Hubs know licences by such names only; `licence_in` reads the other two keys back.
    name = re.sub(r"[^a-z0-9.]+", "-", licence).strip("-")
    if licence:
        lines += [f"license: {licence}"] if licence == name else ["license: other"]
    if licence != name and name:
        lines.append(f"license_name: {name}")
    if init.get("non_commercial"):
        lines.append("non_commercial: true")
    return lines


def _results(facts: Facts) -> str:
    if not facts.results:
        return ""
    rows = "".join(f"| {what} | {value} |\n" for what, value in facts.results)
    return f"## Results\n\n| | |\n|---|---|\n{rows}\n"


def _origin(init: dict[str, Any]) -> tuple[str, str]:
    """Where the weights come from, and what that means for their licence."""
    if not init:
        return "from scratch", f"{FREE}; no other weights went in."
    origin = shown_source(str(init.get("from", "other weights")))
    loaded, digest = init.get("keys_loaded"), init.get("sha256")
    details = ", ".join(
        [f"{loaded} tensors"] * (loaded is not None) + [f"sha256 {digest}"] * (digest is not None)
    )
    text = f"Training started from `{origin}`{f' ({details})' if details else ''}"
    if init.get("from_scratch") and not init.get("license"):
        return (
            f"from `{origin}`",
            f"{FREE}; no weights of others went in. {text}, trained from scratch.",
        )
    licence = init.get("license") or "not known: ask where they come from"
    text += f". Licence of these weights: **{licence}**. "
    text += (
        "**They may not be used commercially, and so may not these.**"
        if init.get("non_commercial")
        else "It holds for what was made from them too."
    )
    return f"from `{origin}`", text
