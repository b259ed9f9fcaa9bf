"""Exports of a classifier for transformers, and in the names of the original release.

The loaders run in a fresh process without our models.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from timm.models.hiera import Hiera
from torch import Tensor

from mae.base.errors import UserError
from mae.data.class_names import write_class_names
from mae.export.contract import ExportFiles, ExportRequest, expected_features, weights
from mae.export.hiera import hiera_config, hiera_tensors, position_remarks
from mae.export.huggingface import (
    ENCODER_NAMES,
    encoder_config,
    hub_names,
    hub_reading,
    load_complete,
    processed,
    refuse_unreadable,
    write_folder,
)
from mae.export.original import FILES, read_tensors, refuse_beyond_plain, write_tensors
from mae.export.reading import expected_photograph, prepare_code
from mae.export.timm import timm_config
from mae.networks.encoders.registry import TimmEncoder, adapter_of
from mae.pretrained_weights.description import num_heads_of

HEAD = "head."
"""begin of the names of the head's weights in timm"""

HUB_FILES = """\
`config.json`, with the class names, and `model.safetensors` are a {kind}."""

HUB_CODE = """\
{imports}from transformers import {classes}
{define}
model = {kind}.from_pretrained("FOLDER").eval()
{read}probabilities = model(images).logits.softmax(1)
names = model.config.id2label
"""

ORIGINAL_CODE = """\
import timm
{imports}{define}
weights = torch.load("FOLDER/mae.pth", weights_only=True)["model"]
model = timm.create_model("{encoder}", num_classes={count}, **{arguments}).eval()
model.load_state_dict(weights)
{read}probabilities = model(images).softmax(1)
"""


class HubClassifier(NamedTuple):
    """A classifier's encoder for transformers."""

    kind: str
    """class of transformers'"""
    prefix: str
    """of the names of the encoder's tensors"""
    tensors: dict[str, Tensor]
    """those of the encoder, under transformers' names"""
    config: dict[str, Any]
    """contents of config.json, without the classes"""
    remarks: Sequence[str] = ()
    """lines for the user"""


def plain_classifier(vit: TimmEncoder) -> HubClassifier:
    """A plain ViT on the class token, a ViTForImageClassification; UserError for other ones."""
    vit = refuse_beyond_plain(vit, "hf")
    if adapter_of(vit).pooling(vit) != "token":
        raise UserError(
            "--format hf: ViTForImageClassification reads the class token, this classifier the "
            "mean of the patches (finetune.global_pool): use --format timm, which transformers "
            "loads too, by AutoModelForImageClassification"
        )
    own = {name: one for name, one in weights(vit).items() if not name.startswith(HEAD)}
    tensors, config = hub_names(own, ENCODER_NAMES), encoder_config(vit) | {"model_type": "vit"}
    return HubClassifier("ViTForImageClassification", "vit", tensors, config)


def hiera_classifier(vit: TimmEncoder) -> HubClassifier:
    """A Hiera as a HieraForImageClassification; UserError for one that it does not compute."""
    assert isinstance(vit, Hiera)
    config = hiera_config(vit)
    tensors, remarks = hiera_tensors(vit), position_remarks(vit)
    return HubClassifier("HieraForImageClassification", "hiera", tensors, config, remarks)


CLASSIFIERS: dict[type, Callable[[TimmEncoder], HubClassifier]] = {Hiera: hiera_classifier}
"""class of timm's → its classifier for transformers, for other classes than a plain ViT"""


def write_huggingface(folder: Path, request: ExportRequest, images: Tensor) -> ExportFiles:
    """Write a ViTForImageClassification, or a HieraForImageClassification.

    Raises UserError where transformers has no such classifier, and as `refuse_unreadable`.
    """
    vit = request.encoder
    hub = CLASSIFIERS.get(type(vit), plain_classifier)(vit)
    refuse_unreadable(request.config.data)
    tensors = {f"{hub.prefix}.{name}": tensor for name, tensor in hub.tensors.items()}
    head = f"{adapter_of(vit).head}."
    for name, tensor in weights(vit).items():
        if name.startswith(head):
            tensors[f"classifier.{name.removeprefix(head)}"] = tensor
    config = hub.config | {
        "architectures": [hub.kind],
        "id2label": {str(number): name for number, name in enumerate(request.label_names)},
    }
    if max(Counter(request.label_names).values()) == 1:
        config["label2id"] = {name: number for number, name in enumerate(request.label_names)}
    reading = hub_reading(request, images)
    write_folder(folder, tensors, config, reading.processor)
    logits = expected_features(request, reading.inputs["images"])["logits"]
    return ExportFiles(
        inputs=reading.inputs,
        expected={"logits": logits} | reading.expected,
        tolerance=1e-5,
        reader="transformers",
        files=HUB_FILES.format(kind=hub.kind) + reading.files,
        code=HUB_CODE.format(
            **reading.code._asdict(), classes=reading.classes(hub.kind), kind=hub.kind
        ),
        loader=load_huggingface,
        library="transformers",
        part="classifier",
        settings={"kind": hub.kind},
        remarks=hub.remarks,
    )


def load_huggingface(
    folder: Path, inputs: dict[str, Tensor], settings: dict[str, str]
) -> dict[str, Tensor]:
    """Logits and normalised pixels through transformers."""
    import transformers

    model = load_complete(getattr(transformers, settings["kind"]), folder)
    found = {"logits": model(inputs["images"]).logits}
    if "pixels" in inputs:
        found["pixel_values"] = processed(folder, inputs["pixels"])
    return found


def write_original(folder: Path, request: ExportRequest, images: Tensor) -> ExportFiles:
    """Write mae.safetensors and mae.pth, and the class names; raises as `refuse_beyond_plain`."""
    vit = request.encoder
    refuse_beyond_plain(vit, "mae")
    heads = num_heads_of(vit)
    write_tensors(folder, weights(vit), {"num_heads": heads} if heads else {})
    if request.classes:
        write_class_names(request.classes.names, folder)
    normalised, described = request.normalize(images), timm_config(request)
    return ExportFiles(
        inputs={"images": normalised},
        expected=expected_features(request, normalised) | expected_photograph(request),
        tolerance=1e-5,
        reader="timm",
        files=FILES.format(what="encoder and head, as fine-tuned models of that release"),
        code=ORIGINAL_CODE.format(
            **prepare_code(request, as_tensor=True)._asdict(),
            encoder=described["architecture"],
            count=vit.num_classes,
            arguments=described["model_args"],
        ),
        loader=load_original,
        library="pytorch",
        part="classifier",
        settings={"architecture": json.dumps(described)},
    )


def load_original(
    folder: Path, inputs: dict[str, Tensor], settings: dict[str, str]
) -> dict[str, Tensor]:
    """Tokens and logits through timm; ValueError where the two files differ."""
    import timm

    described = json.loads(settings["architecture"])
    model: Any = timm.create_model(
        described["architecture"], num_classes=described["num_classes"], **described["model_args"]
    ).eval()
    model.load_state_dict(read_tensors(folder), strict=True)
    images = inputs["images"]
    return {"tokens": model.forward_features(images), "logits": model(images)}
