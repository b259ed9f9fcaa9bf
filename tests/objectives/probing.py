"""Probe requests of tests, in the test's process."""

import argparse
from pathlib import Path

from mae.base.portion import ALONE
from mae.data.images import Images
from mae.evaluation.encoders import open_encoder
from mae.evaluation.probing import ProbeRequest
from mae.training.plan import planned
from mae.training.safety.lifecycle import RunLifecycle
from mae.training.train import train


def probing(
    run: Path, train_images: Images, test_images: Images, say=lambda text: None, baselines=False
) -> ProbeRequest:
    """Request as `mae probe` and `mae attentive` build it."""
    opened = open_encoder(run)
    encoders, modules = {opened.encoder.name: opened.encoder}, {opened.encoder.name: opened.module}
    if baselines:
        module, fresh = opened.untrained()
        encoders[fresh.name], modules[fresh.name] = fresh, module

    def fit(config, source=None, followed_by=None):
        lifecycle = RunLifecycle()
        with lifecycle.cleanup:
            return train(config, lifecycle, source=source, use_cpu=True)

    options = argparse.Namespace(run=run, train=["gone.tar"], workers=0, token_gb=50.0)
    return ProbeRequest(
        options=options,
        opened=opened,
        encoders=encoders,
        modules=modules,
        train=train_images,
        test=test_images,
        seen=0,
        folder=run,
        patch_size=None,
        matched="",
        device="cpu",
        portion=ALONE,
        fit=fit,
        plan=planned,
        log=say,
    )
