"""Implementation of classification: initial weights, layer-wise learning rates, evaluation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mae.base.device import loader_count
from mae.base.errors import UserError
from mae.config.sections import Config
from mae.data.class_names import Classes, run_classes
from mae.data.images import Images
from mae.evaluation.classification import single_answer, summary
from mae.evaluation.predictions import ClassifiedImages, evaluate_classifier, require_classes
from mae.export.contract import Pool, Writer
from mae.networks.vit import layer_groups
from mae.objectives.base import Objective
from mae.objectives.classifier.adopt import adopt_classifier
from mae.objectives.classifier.declaration import finetune_of
from mae.objectives.classifier.export import write_huggingface, write_original
from mae.objectives.classifier.model import Classifier, build_classifier
from mae.objectives.implementation import AdoptedModel, HeldOut, Implementation
from mae.pretrained_weights.architecture import WeightOptions
from mae.pretrained_weights.init_record import InitialWeights
from mae.pretrained_weights.start import start_encoder
from mae.pretrained_weights.weight_files import Weights


class ClassifierImplementation(Implementation):
    """Implementation of classification."""

    exports: ClassVar[Mapping[str, Writer]] = {"mae": write_original, "hf": write_huggingface}

    def build(self, config: Config) -> Classifier:
        """Build the classifier from the settings, initialised from torch's default generator."""
        return build_classifier(config)

    def parameter_groups(self, objective: Objective, config: Config) -> list[dict[str, Any]]:
        """Parameter groups by depth, where finetune.layer_decay is below 1."""
        layer_decay = finetune_of(config).layer_decay
        if layer_decay == 1:
            return super().parameter_groups(objective, config)
        assert isinstance(objective, Classifier)
        return layer_groups(objective.encoder, config.optim.weight_decay, layer_decay)

    def check_held_out(self, config: Config, images: Images) -> None:
        """Check the labels of the held-out images.

        Raises UserError where a label is missing or no class of the training.
        """
        require_classes(images, "data.val", finetune_of(config).num_classes)

    def measure(self, objective: Objective, held_out: HeldOut) -> Mapping[str, Any]:
        """Evaluate accuracy and cross-entropy; prints the accuracy with its interval."""
        assert isinstance(objective, Classifier)
        images, config = held_out.images, held_out.config
        was_training = objective.training
        objective.eval()
        try:
            predictions = evaluate_classifier(
                ClassifiedImages(
                    logits=objective.logits,
                    images=images,
                    labels=np.asarray(images.manifest.label, np.int64),
                    img_size=objective.img_size,
                    crop_pct=config.data.crop_pct,
                ),
                device=held_out.device,
                workers=loader_count(config.data.workers),
                process_index=held_out.process_index,
                num_processes=held_out.num_processes,
                gather=held_out.gather,
            )
        finally:
            objective.train(was_training)
        row = summary(predictions)
        low, high = row["interval"]
        held_out.log(
            f"held-out accuracy {row['accuracy']:.1%} ({100 * low:.1f}–{100 * high:.1f}) of "
            f"{row['images']:,} images; always the commonest class "
            f"{row['commonest_accuracy']:.1%}"
        )
        names = Classes(finetune_of(config).num_classes, images.manifest.class_names).shown()
        if note := single_answer(predictions, names):
            held_out.log(f"held-out images: the classifier {note}")
        return row

    def load_initial(self, objective: Objective, config: Config) -> InitialWeights:
        """Load the encoder's weights; the head keeps its initial ones."""
        assert isinstance(objective, Classifier)
        return start_encoder(objective, objective.encoder, config.init, config.data)

    def adopt(self, weights: Weights, options: WeightOptions) -> AdoptedModel | None:
        """Build a classifier for weights with a head and without a decoder."""
        return None if weights.decoder else adopt_classifier(weights, options)

    def choose_pool(self, objective: Objective, chosen: Pool | None) -> Pool:
        """Pooling that the head was trained on.  Raises UserError for another choice."""
        assert isinstance(objective, Classifier)
        pool = objective.settings.global_pool
        if chosen not in (None, pool):
            raise UserError(f"--pool {chosen}: this classifier was trained on {pool}")
        return pool

    def classes(self, config: Config, run: Path) -> Classes:
        """Classes, with names from the run folder, else from the shards' folder."""
        return run_classes(config.data.train, finetune_of(config).num_classes, run)


IMPLEMENTATION = ClassifierImplementation()
