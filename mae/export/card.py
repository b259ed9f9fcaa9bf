"""The model card that travels with an exported encoder."""

from pathlib import Path

from mae import __version__
from mae.config import Config
from mae.models.mae import MaskedAutoencoder
from mae.training.checkpoint import Position

CARD = """\
---
library_name: timm
pipeline_tag: image-feature-extraction
tags: [timm, masked-autoencoder, self-supervised]
---
# {encoder}, pretrained as a Masked Autoencoder

An image encoder trained without labels (He et al. 2021, arXiv:2111.06377) by mae {version}.
It is meant for fine-tuning; frozen features of a Masked Autoencoder are weaker than its
fine-tuned ones.

| | |
|---|---|
| input | {height} x {width} px, {channels} channel(s) of {bits} bits, as numbers in [0, 1] |
| normalisation | mean {mean}, std {std} |
| encoder | {encoder} {arguments}, patch {patch}, {encoder_millions:.2f} M parameters |
| pretraining | from scratch, {samples:,} images seen in {step:,} steps of {batch_size} |
| objective | mask ratio {mask_ratio}, predicts {target} |
| augmentation | random resized crop, area {scale}, ratio {ratio}{flip} |
| optimizer | AdamW, betas {betas}, weight decay {weight_decay}, seed {seed} |
| data | {shards}; fingerprint {fingerprint} |

## Use

```python
import timm

model = timm.create_model("local-dir:{folder}", pretrained=True, num_classes=10)  # fine-tune
encoder = timm.create_model("local-dir:{folder}", pretrained=True)  # {pool}
tokens = encoder.forward_features(images)  # [b, {prefix} + {patches}, {width_of_tokens}]
```

`model.safetensors` is the encoder, in timm's own names.  `decoder.safetensors` is the
pretraining decoder, for going on with pretraining or for pictures; timm never reads it.
Licence: that of the training data's owner to choose; no other weights went in.
"""


def model_card(config: Config, model: MaskedAutoencoder, position: Position) -> str:
    """Markdown under the metadata block that model hubs read."""
    encoder = model.encoder
    data, train = config.data, config.train
    patterns = [*data.train, *(pattern for part in data.mixture for pattern in part.shards)]
    return CARD.format(
        version=__version__,
        encoder=config.model.encoder,
        arguments=config.model.encoder_kwargs or "",
        height=model.img_size[0],
        width=model.img_size[1],
        channels=config.model.in_chans,
        bits=data.bits,
        mean=list(data.mean),
        std=list(data.std),
        patch=" x ".join(map(str, model.patch_size)),
        encoder_millions=sum(p.numel() for p in encoder.parameters()) / 1e6,
        samples=position.samples,
        step=position.step,
        batch_size=train.batch_size,
        mask_ratio=config.model.mask_ratio,
        target="pixels normalised per patch" if model.norm_pix_loss else "pixels",
        scale=list(data.scale),
        ratio=[round(r, 4) for r in data.ratio],
        flip=", horizontal flip" if data.flip else "",
        betas=list(config.optim.betas),
        weight_decay=config.optim.weight_decay,
        seed=train.seed,
        shards=", ".join(f"`{Path(pattern).name}`" for pattern in patterns),
        fingerprint=position.data[:16],
        folder="FOLDER",
        pool="the class token" if encoder.has_class_token else "the mean of the patch tokens",
        prefix=encoder.num_prefix_tokens,
        patches=model.num_patches,
        width_of_tokens=encoder.embed_dim,
    )
