"""The model card that travels with an export."""

import re
from typing import Any

from mae.config.sections import Config
from mae.export.facts import Facts
from mae.export.subject import Subject, Written
from mae.networks.vit import timm_encoder
from mae.objectives import registry
from mae.objectives.declaration import Card, Declaration
from mae.pretrained_weights.record import data_names, shown_source

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
    config, model, position = subject.config, subject.model, subject.position
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
        samples=position.samples,
        step=position.step,
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
        fingerprint=position.data[:16],
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
    others = [one for one in map(registry.declaration, registry.OBJECTIVES) if one.is_in(init)]
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
