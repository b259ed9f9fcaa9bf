"""Findings on a sparse autoencoder of tokens: dead latents, no better than PCA, tokens alike."""

from collections.abc import Iterator

from mae.evaluation.diagnosis import Finding
from mae.evaluation.run_record import RunRecord, number, settled
from mae.objectives.autoencoders.diagnosis import about_dead


def without_auxiliary_loss(weight: float) -> Iterator[Finding]:
    """Finding on latents that nothing brings back once they are unused."""
    if not weight:
        yield Finding(
            "watch",
            "model.aux_weight=0: latents that are not used stay so",
            "The auxiliary loss brings them back: leave it at its default, unless as a comparison.",
        )


def diagnose(run: RunRecord) -> Iterator[Finding]:
    """Findings on held-out tokens, and on latents that training does not use."""
    yield from about_dead(
        run, "raise model.aux_weight or model.aux_k, or choose a smaller model.expansion"
    )
    rows = settled(run, run.health)[-1:]
    if not rows:
        return
    row, k = rows[0], number(run.settings, "model.k")
    explained, topk = number(row, "explained"), number(row, "explained_topk_pca")
    if explained is not None and topk is not None and explained < topk:
        yield Finding(
            "watch",
            f"{explained:.1%} of the tokens' variance is explained, and top-k PCA with as many "
            f"numbers per token explains {topk:.1%}",
            "The learned directions are no better than the principal components: train for longer, "
            "with more latents (model.expansion), or on an encoder that has learned more.",
        )
    rank = number(row, "token_rank")
    if rank is not None and k is not None and rank < k:
        yield Finding(
            "watch",
            f"The tokens have {rank:.1f} effective dimensions, fewer than model.k = {k:.0f}",
            "Images that look alike, or an encoder whose tokens are alike, leave nothing to take "
            "apart, and latents die: more different images, another model.layer, or a smaller "
            "model.k.",
        )
