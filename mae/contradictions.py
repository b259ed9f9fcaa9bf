"""Settings that are fine alone, but not together."""

from collections.abc import Iterator

from mae.config import Config


def contradictions(config: Config) -> Iterator[tuple[str, str]]:
    """(key, message) of each."""
    data, model, optim, train = config.data, config.model, config.optim, config.train
    if optim.warmup_epochs >= train.epochs:
        message = f"{optim.warmup_epochs:g}, but train.epochs is only {train.epochs:g}"
        yield "optim.warmup_epochs", message
    for key, (low, high) in (("scale", data.scale), ("ratio", data.ratio)):
        if not 0 < low <= high:
            yield f"data.{key}", f"[{low:g}, {high:g}] is no range of positive numbers"
    if data.scale[1] > 1:
        yield "data.scale", f"a crop of {data.scale[1]:g} times the image's area is impossible"
    for key, numbers in (("mean", data.mean), ("std", data.std)):
        if len(numbers) != model.in_chans and not data.own_statistics:
            yield (
                f"data.{key}",
                f"{len(numbers)} numbers for model.in_chans = {model.in_chans} "
                "(data.own_statistics=true measures them)",
            )
    if data.train and data.mixture:
        yield "data.mixture", "is instead of data.train: give one of the two"
    weights = [part.weight for part in data.mixture]
    if weights and min(weights) < sum(weights) / 1000:
        yield "data.mixture", "a weight below a thousandth of the sum is never drawn exactly"
    if data.decode_on_device and (data.bits != 8 or model.in_chans not in (1, 3)):
        what = f"{model.in_chans} channels of {data.bits} bits"
        yield "data.decode_on_device", f"is for JPEGs, not for {what}"
    if data.order == "lanes" and train.batch_size % data.lanes:
        yield "data.lanes", f"{data.lanes} do not divide train.batch_size = {train.batch_size}"
    if train.batch_size % data.repeats:
        yield "data.repeats", f"{data.repeats} do not divide train.batch_size = {train.batch_size}"
    if model.decoder_embed_dim % 4 or model.decoder_embed_dim % model.decoder_num_heads:
        yield (
            "model.decoder_embed_dim",
            f"{model.decoder_embed_dim} must divide by 4 (sine-cosine positions) "
            f"and by decoder_num_heads = {model.decoder_num_heads}",
        )
    if model.prediction_ratio and model.decoder_attention != "cross":
        yield (
            "model.prediction_ratio",
            "is for model.decoder_attention=cross: hidden patches that attend to each other are "
            "predicted together",
        )
    owned = {"img_size", "patch_size", "in_chans", "num_classes", "global_pool", "pretrained"}
    for key in sorted(owned & config.model.encoder_kwargs.keys()):
        yield f"model.encoder_kwargs.{key}", "is set elsewhere (model.img_size and so on)"
    if config.objective == "classifier":
        yield from _of_a_classifier(config)
    if optim.lr is None and optim.blr == 0:
        yield "optim.blr", "a learning rate of 0 learns nothing"


def _of_a_classifier(config: Config) -> Iterator[tuple[str, str]]:
    """The same, of what only fine-tuning has."""
    data, finetune = config.data, config.finetune
    if data.mixture or data.repeats > 1:
        yield "objective", "classifier: data.mixture and data.repeats are for pretraining"
    if "drop_path_rate" in config.model.encoder_kwargs:
        yield "model.encoder_kwargs.drop_path_rate", "is set elsewhere (finetune.drop_path)"
    if finetune.num_classes == 1:
        yield "finetune.num_classes", "1 class leaves nothing to learn"
    if finetune.rand_augment and (data.bits != 8 or config.model.in_chans != 3):
        what = f"{config.model.in_chans} channels of {data.bits} bits"
        yield "finetune.rand_augment", f"is for colour images, not for {what}: set it to ''"
    for key in ("crop_on_device", "decode_on_device"):
        if finetune.rand_augment and getattr(data, key):
            yield f"data.{key}", "leaves no crops to finetune.rand_augment: set one to nothing"
