"""Classification: model, first weights, layer-wise learning rates, accuracy on held-out images."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mae.base.errors import UserError
from mae.config.sections import Config
from mae.data.class_names import class_names, refuse_other_names
from mae.data.images import Images
from mae.evaluation.classification import evaluate_classifier, require_classes, summary
from mae.export.subject import Pool
from mae.networks.parameter_groups import layer_groups
from mae.objectives.base import HeldOut, Implementation, Objective
from mae.objectives.classifier.declaration import finetune_of
from mae.objectives.classifier.model import Classifier, build_classifier
from mae.pretrained_weights.record import Initial
from mae.pretrained_weights.start import start_encoder


class ClassifierImplementation(Implementation):
    """Classification with labels."""

    def build(self, config: Config) -> Classifier:
        """The classifier that the settings describe, freshly initialised."""
        return build_classifier(config)

    def parameter_groups(self, objective: Objective, config: Config) -> list[dict[str, Any]]:
        """Groups by depth, where finetune.layer_decay is below 1."""
        layer_decay = finetune_of(config).layer_decay
        if layer_decay == 1:
            return super().parameter_groups(objective, config)
        assert isinstance(objective, Classifier)
        return layer_groups(objective.encoder, config.optim.weight_decay, layer_decay)

    def check_held_out(self, config: Config, images: Images) -> None:
        """UserError where a label is missing, or is another class than in training."""
        require_classes(images, "data.val", finetune_of(config).num_classes)
        refuse_other_names(config.data.train, images.manifest.shards, "data.val")

    def measure(self, objective: Objective, held_out: HeldOut) -> Mapping[str, Any]:
        """Accuracy and cross-entropy."""
        assert isinstance(objective, Classifier)
        images, config = held_out.images, held_out.config
        was_training = objective.training
        objective.eval()
        try:
            predictions = evaluate_classifier(
                objective.logits,
                images,
                images.manifest.label.astype(np.int64),
                objective.img_size,
                config.data.crop_pct,
                device=held_out.device,
                workers=config.data.workers,
                process_index=held_out.process_index,
                num_processes=held_out.num_processes,
                gather=held_out.gather,
            )
        finally:
            objective.train(was_training)
        found = summary(predictions)
        low, high = found["interval"]
        held_out.log(
            f"held-out accuracy {found['accuracy']:.1%} ({100 * low:.1f}–{100 * high:.1f}) of "
            f"{found['images']:,} images"
        )
        return found

    def load_initial(self, objective: Objective, config: Config) -> Initial:
        """Load the encoder; the head stays as it was initialised."""
        assert isinstance(objective, Classifier)
        return start_encoder(objective, objective.encoder, config.init, config.data)

    def choose_pool(self, objective: Objective, chosen: Pool | None) -> Pool:
        """The vector that the head reads; UserError for another choice."""
        assert isinstance(objective, Classifier)
        own = objective.settings.global_pool
        if chosen not in (None, own):
            raise UserError(f"--pool {chosen}: this classifier was trained on {own}")
        return own

    def class_names(self, config: Config, run: Path) -> list[str]:
        """Names of the classes: those that the run keeps, those beside the shards, or numbers."""
        return class_names(config.data.train, finetune_of(config).num_classes, run)


IMPLEMENTATION = ClassifierImplementation()
