"""The model card that travels with an export."""

import re
from typing import Any

from mae import __version__
from mae.config import Config
from mae.export.facts import Facts
from mae.export.subject import Subject, Written
from mae.initial.history import MASKED, data_names, shown_source
from mae.initial.licence import PAPERS_RELEASE
from mae.models.classifier import Classifier
from mae.models.mae import MaskedAutoencoder

PRETRAINED = """\
pretrained as a Masked Autoencoder

An image encoder trained without labels (He et al. 2021, arXiv:2111.06377) by mae {version}.
It is meant for fine-tuning; frozen features of a Masked Autoencoder are weaker than its
fine-tuned ones."""

CARD = """\
---
{metadata}
---
# {encoder}, {what}

## Use

```python
{code}
```

{files}

Images come as numbers in [0, 1], less the mean and divided by the standard deviation (below),
channel by channel. {proof}.

## Training

| | |
|---|---|
| input | {height} x {width} px, {channels} channel(s) of {bits} bits{resized} |
| normalisation | mean {mean}, std {std} |
| encoder | {encoder} {arguments}, patch {patch}, {encoder_millions:.2f} M parameters |
| training | {start}, {samples:,} images seen in {step:,} steps of {batch_size} |
{history}| objective | {objective} |
| augmentation | random resized crop, area {scale}, ratio {ratio}{flip} |
| optimizer | AdamW, betas {betas}, weight decay {weight_decay}, {rate}, seed {seed} |
| data | {images}{shards}; fingerprint {fingerprint} |

{results}## Licence

{licence}
"""

FREE = "That of the training data's owner to choose"

LIBRARIES = {
    "timm": "timm",
    "mae": "pytorch",
    "hf": "transformers",
    "onnx": "onnx",
    "torch": "pytorch",
}


def model_card(format: str, subject: Subject, facts: Facts, written: Written, proof: str) -> str:
    """Markdown under the metadata block that model hubs read."""
    config, model, position = subject.config, subject.model, subject.position
    encoder, data, train = model.encoder, config.data, config.train
    init = _init(subject, facts)
    start, licence = _origin(init)
    return CARD.format(
        metadata="\n".join(_metadata(format, subject, init)),
        code=written.code.rstrip(),
        files=written.files,
        proof=proof[0].upper() + proof[1:],
        encoder=config.model.encoder,
        arguments=config.model.encoder_kwargs or "",
        height=model.img_size[0],
        width=model.img_size[1],
        resized=_resized(subject),
        channels=config.model.in_chans,
        bits=data.bits,
        mean=list(data.mean),
        std=list(data.std),
        patch=" x ".join(map(str, model.patch_size)),
        encoder_millions=sum(p.numel() for p in encoder.parameters()) / 1e6,
        start=start,
        history=f"| pretraining | {init['history']} |\n" if init.get("history") else "",
        samples=position.samples,
        step=position.step,
        batch_size=train.batch_size,
        what=_what(model, init),
        objective=_objective(config, model),
        scale=list(data.scale),
        ratio=[round(r, 4) for r in data.ratio],
        flip=", horizontal flip" if data.flip else "",
        betas=list(config.optim.betas),
        weight_decay=config.optim.weight_decay,
        rate=f"blr {config.optim.blr}" if config.optim.lr is None else f"lr {config.optim.lr}",
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


def _what(model: MaskedAutoencoder | Classifier, init: dict[str, Any]) -> str:
    if not isinstance(model, Classifier):
        return PRETRAINED.format(version=__version__)
    trained = "fine-tuned to" if init else "trained from scratch on"
    return f"{trained} {model.encoder.num_classes} classes by mae {__version__}"


def _objective(config: Config, model: MaskedAutoencoder | Classifier) -> str:
    if isinstance(model, Classifier):
        use = config.finetune
        return (
            f"cross-entropy; label smoothing {use.label_smoothing}, mixup {use.mixup}, cutmix "
            f"{use.cutmix}, random erasing {use.random_erasing}, RandAugment "
            f"{use.rand_augment or 'none'}, drop path {use.drop_path}, layer decay "
            f"{use.layer_decay}" + (f", weights averaged with decay {use.ema}" if use.ema else "")
        )
    target = "pixels normalised per patch" if model.norm_pix_loss else "pixels"
    return f"mask ratio {config.model.mask_ratio}, predicts {target}"


def _resized(subject: Subject) -> str:
    height, width = subject.trained_size
    if subject.model.img_size == subject.trained_size:
        return ""
    return f"; positions interpolated from those of {height} x {width} px, where it was trained"


def _metadata(format: str, subject: Subject, init: dict[str, Any]) -> list[str]:
    is_classifier = isinstance(subject.model, Classifier)
    task = "image-classification" if is_classifier else "image-feature-extraction"
    lines = [f"library_name: {LIBRARIES[format]}", f"pipeline_tag: {task}"]
    tags = [LIBRARIES[format], "vision-transformer"]
    masked = MASKED in str(init.get("history")) or PAPERS_RELEASE.search(str(init.get("from")))
    tags += ["masked-autoencoder"] if masked or not is_classifier else []
    tags += [] if is_classifier else ["self-supervised"]
    lines.append(f"tags: [{', '.join(tags)}]")
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
