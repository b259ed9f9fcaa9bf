"""`mae sae-report`: the latents of a sparse autoencoder, one by one."""

import argparse
from pathlib import Path
from typing import Any

from mae.commands.argument_types import natural, positive
from mae.commands.options import (
    SHARDS,
    add_command,
    device_option,
    portion_of,
    portion_options,
    run_cache_options,
    seed_option,
    with_own_cache,
    workers_option,
)

EPILOG = (
    "For each latent of a sparse autoencoder: the images in which it is largest and where in them "
    "it fires, how often it fires, its class (with labels), whether it fires by place or never; "
    "beside principal components. The page sorts and filters; OUT.json has all figures. "
    "docs/FEATURES_INSIDE.md has an example."
)


def add_parser(commands: Any) -> None:
    """Add the command and its options."""
    parser = add_command(
        commands, "sae-report", "page of the latents of a sparse autoencoder", run, EPILOG
    )
    parser.add_argument(
        "run", type=Path, help="run, checkpoint or plain export of objective sae or sparse"
    )
    parser.add_argument(
        "--test", nargs="+", required=True, help=f"images, labelled or not; {SHARDS}"
    )
    parser.add_argument("--out", type=Path, help="file ending in .html (default: RUN/latents.html)")
    parser.add_argument(
        "--untrained",
        type=Path,
        metavar="RUN",
        help="run on the same encoder, untrained (model.untrained=true), to compare with",
    )
    parser.add_argument(
        "--pictures", type=positive, default=200, help="maximum number of latents with pictures"
    )
    parser.add_argument("--top", type=positive, default=8, help="images of each latent")
    parser.add_argument(
        "--max-bad",
        type=natural,
        help="images that may fail to decode (default: the run's data.max_bad)",
    )
    seed_option(parser, "random seed of the drawn labels")
    device_option(parser)
    run_cache_options(parser)
    workers_option(parser)
    portion_options(parser)


def run(args: argparse.Namespace) -> None:
    """Write page and JSON file; print the totals and what they say.

    Raises UserError as `survey`, and where the objective has no latents of patches.
    """
    from mae.base.device import choose_device
    from mae.base.errors import UserError
    from mae.base.files import write_json
    from mae.pictures.html import write_document
    from mae.pretrained_weights.opened import results_folder
    from mae.sparse_features.findings import latent_rows, totals, words
    from mae.sparse_features.page import Contents, latents_page
    from mae.sparse_features.pictures import chosen_latents, latent_pictures
    from mae.sparse_features.survey import survey

    portion = portion_of(args)
    if args.untrained and (args.part or args.join):
        raise UserError("--untrained: is for one launch, not for job arrays: leave it out there")
    out = args.out or results_folder(args.run) / "latents.html"
    if out.suffix != ".html":
        raise UserError(f"--out: {out} must end in .html")
    device = choose_device(args.device)
    request, opened, classes = _request(args, args.run, out, device, portion)
    found = survey(request)
    other = None
    if args.untrained:
        beside = out.with_name(f"{out.stem}-untrained{out.suffix}")
        second, _, _ = _request(args, args.untrained, beside, device, portion)
        surveyed = survey(second)
        other = totals(surveyed, latent_rows(surveyed)) if surveyed else None
    portion.leave_to_first()
    assert found is not None
    rows = latent_rows(found)
    figures = totals(found, rows)
    notes = [*filter(None, [found.left_out]), *words(figures)]
    pictures = latent_pictures(request, found, rows, chosen_latents(rows, args.pictures))
    manifest = request.images.manifest
    named = [{**row, "top": [manifest.key(image) for image in row["top"]]} for row in rows]
    shown = classes if found.setup.classes else []
    step = "" if opened.step is None else f", step {opened.step:,}"
    lead = (
        f"{figures['latents']:,} latents over {figures['images']:,} images, "
        f"{figures['tokens']:,} patches{f'; {len(found.bad):,} images skipped' * bool(found.bad)}"
    )
    page = latents_page(
        Contents(f"{args.run}{step}: latents", lead, named, pictures, shown, figures, other, notes)
    )
    write_document(page, out)
    report = {
        "command": "sae-report",
        "run": str(args.run),
        "step": opened.step,
        "test": args.test,
        **figures,
        "untrained": other,
        "notes": notes,
        "classes": shown,
        "skipped": found.bad,
        "rows": named,
    }
    write_json(out.with_suffix(".json"), report)
    _print(figures, other, notes)
    print(f"{out}; all figures in {out.with_suffix('.json')}")


def _request(args: argparse.Namespace, run: Path, out: Path, device: Any, portion: Any) -> Any:
    """Request of a survey of `run`, the opened model, and the names of the classes."""
    import numpy as np

    from mae.base.device import loader_count
    from mae.data.class_names import Classes
    from mae.data.opening import open_labelled
    from mae.data.transform import choose_crop_pct
    from mae.data.views import CentredViews
    from mae.evaluation.encoders import weights_sha256
    from mae.evaluation.features import missing_features
    from mae.pretrained_weights.opened import log_lines, open_model
    from mae.sparse_features.survey import SurveyRequest

    opened = open_model(run)
    log_lines(opened, portion.log)
    config, objective = with_own_cache(opened.config, args), opened.objective.to(device).eval()
    encode: Any = getattr(objective, "patch_latents", None)
    if encode is None:
        raise missing_features(run, config.objective, "sparse latents", "sae-report")
    images = portion.first_before_others(
        lambda: open_labelled(args.test, "--test", config, (), "").images
    )
    size = objective.img_size
    labels = np.asarray(images.manifest.label)
    count = int(labels.max(initial=-1)) + 1
    names = Classes(count, images.manifest.class_names[:count]).shown()
    request = SurveyRequest(
        encode=encode,
        images=images,
        views=CentredViews(images, size, choose_crop_pct(config.data.crop_pct, size)),
        identity=f"{weights_sha256(objective.encoder_module())} {config.model.model_dump_json()}",
        out=out,
        classes=count if count > 1 else 0,
        top=args.top,
        seed=args.seed,
        max_bad=config.data.max_bad if args.max_bad is None else args.max_bad,
        device=device,
        workers=loader_count(args.workers),
        portion=portion,
        log=portion.log,
    )
    return request, opened, names


def _print(figures: dict[str, Any], other: dict[str, Any] | None, notes: list[str]) -> None:
    from mae.evaluation.results import aligned

    lines = [["", "explained", "active", "dead", "by place", "best AUROC", "drawn"]]
    for name, one in (("latents", figures), ("untrained encoder", other)):
        if one is None:
            continue
        chosen = one.get("selectivity")
        pairs: list[tuple[str, str, str]] = [
            (name, "explained", "all_latents"),
            ("  PCA", "explained_pca", "pca"),
            ("  top-k PCA", "explained_topk_pca", ""),
        ]
        for label, key, which in pairs:
            is_own = key == "explained"
            lines.append(
                [
                    label,
                    f"{one[key]:.1%}",
                    f"{one['active_latents']:.1f}",
                    f"{one['dead'] / one['latents']:.0%}" if is_own else "",
                    f"{one['by_place']:,}" if is_own else "",
                    f"{chosen[which]:.3f}" if chosen and which else "",
                    f"{chosen[f'{which}_drawn']:.3f}" if chosen and which else "",
                ]
            )
        if chosen:
            text = f"  {chosen['compared']:,} latents, as PCA's directions"
            best = [f"{chosen[key]:.3f}" for key in ("latents", "latents_drawn")]
            lines.insert(len(lines) - 2, [text, "", "", "", "", *best])
    print("\n".join(aligned(lines)))
    for note in notes:
        print(f"note: {note}")
