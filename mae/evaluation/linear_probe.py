"""The whole linear-probe report of a run: `mae probe`."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mae.config import Config
from mae.data.images import Images
from mae.data.loader import CentredViews
from mae.data.manifest import require_labels
from mae.errors import UserError
from mae.evaluation.features import encoder_features, extract, pixel_features
from mae.evaluation.probe import repeated_probe
from mae.objective import Objective


def probe_report(
    config: Config,
    objective: Objective,
    untrained: Objective | None,
    train: Images,
    test: Images,
    *,
    budgets: tuple[int | None, ...] = (None,),
    splits: int = 5,
    seed: int = 0,
    device: torch.device | str = "cpu",
    workers: int = 0,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Accuracy of every feature at every label budget (images per class; None: all).

    With `untrained` (the same model, freshly initialised) that and the raw pixels are probed
    too.  Raises UserError for unlabelled samples, or test classes that training lacks.
    """
    labels = require_labels(train.manifest, "--train")
    unknown = np.setdiff1d(require_labels(test.manifest, "--test"), labels)
    if len(unknown):
        raise UserError(f"--test: class {unknown[0]} does not occur in --train")

    encoders: dict[str, Callable[[Tensor], dict[str, Tensor]]] = {
        "pretrained": encoder_features(objective.to(device))
    }
    if untrained is not None:
        encoders["untrained"] = encoder_features(untrained.to(device).eval())
        encoders["raw"] = pixel_features
    rows = []
    for encoder, encode in encoders.items():
        say(f"features: {encoder}, {len(train.manifest):,} + {len(test.manifest):,} images")
        fitted, tested = (
            extract(
                encode,
                CentredViews(images, objective.img_size, config.data.crop_pct),
                device=device,
                workers=workers,
            )
            for images in (train, test)
        )
        for name, vectors in fitted.vectors.items():
            for budget in budgets:
                summary = repeated_probe(
                    vectors,
                    fitted.labels,
                    tested.vectors[name],
                    tested.labels,
                    per_class=budget,
                    splits=splits,
                    seed=seed,
                )
                rows.append(
                    {
                        "encoder": encoder,
                        "feature": name,
                        "per_class": budget,
                        "accuracy": summary.mean,
                        "deviation": summary.deviation,
                        "accuracies": [score.accuracy for score in summary.scores],
                        "strengths": [score.strength for score in summary.scores],
                    }
                )
    return {
        "protocol": "logistic regression on standardised frozen features; C chosen on slices of "
        "train, test used once per split",
        "train_images": len(train.manifest),
        "test_images": len(test.manifest),
        "splits": splits,
        "seed": seed,
        "results": rows,
    }


def probe_table(report: dict[str, Any]) -> str:
    """The report for people: a row per feature, a column per label budget."""
    budgets = list(dict.fromkeys(row["per_class"] for row in report["results"]))
    cells = {
        (row["encoder"], row["feature"], row["per_class"]): (
            f"{row['accuracy']:.1%}"
            + (f" ± {100 * row['deviation']:.1f}" if len(row["accuracies"]) > 1 else "")
        )
        for row in report["results"]
    }
    heads = ["all labels" if budget is None else f"{budget} per class" for budget in budgets]
    lines = [f"{'linear probe':24}" + "".join(f"{head:>18}" for head in heads)]
    for encoder, feature in dict.fromkeys(key[:2] for key in cells):
        name = f"{encoder} {feature}"
        values = "".join(f"{cells[encoder, feature, budget]:>18}" for budget in budgets)
        lines.append(f"{name:24}{values}")
    lines.append(
        f"accuracy on {report['test_images']:,} test images, ± standard deviation over "
        f"{report['splits']} splits of the training labels where there were several"
    )
    return "\n".join(lines)
