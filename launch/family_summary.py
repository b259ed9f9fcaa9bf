"""Summary of family_demo.sh's results: python launch/family_summary.py FOLDER SECONDS."""

import json
import sys
from math import isnan
from pathlib import Path
from typing import Any

from PIL import Image

GAP = 12


def last_row(run: Path) -> dict[str, Any]:
    """Evaluation on the held-out images after the last step; ends the program without one."""
    last, row = (rows(run / name)[-1:] for name in ("metrics.jsonl", "health.jsonl"))
    if not last or not row or row[0]["step"] != last[0]["step"]:
        sys.exit(f"{run}: not evaluated after its last step: see its output above")
    odd = [key for key, value in row[0].items() if isinstance(value, float) and isnan(value)]
    if odd:
        sys.exit(f"{run}/health.jsonl: {odd[0]} is not a number")
    return row[0]


def rows(file: Path) -> list[dict[str, Any]]:
    """Rows of a file of JSON lines; none where there is no file."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def last_panel(run: Path) -> Image.Image:
    """Last panel of a run."""
    return Image.open(max((run / "panels").glob("*.png"))).convert("RGB")


def main() -> None:
    """Read the runs, write picture and results, print a table."""
    folder, seconds = Path(sys.argv[1]), int(sys.argv[2])
    names = ("ae", "dae", "codes", "codes-plain", "prior")
    found = {name: last_row(folder / name) for name in names}
    ae, dae, codes, plain, prior = found.values()
    panels = [last_panel(folder / name) for name in ("dae", "prior")]
    width = max(panel.width for panel in panels)
    height = sum(panel.height for panel in panels) + GAP
    picture, top = Image.new("RGB", (width, height), "white"), 0
    for panel in panels:
        picture.paste(panel, (0, top))
        top += panel.height + GAP
    picture.save(folder / "pictures.png")
    (folder / "results.json").write_text(json.dumps({**found, "seconds": seconds}, indent=1) + "\n")
    print(f"""
{f"{ae['images']} test images":44}{"model":>10}   baseline
{"16 numbers per image, PSNR":44}{ae["psnr"]:7.2f} dB   {ae["psnr_pca"]:.2f} dB, PCA
{"noise of 0.2 removed, PSNR":44}{dae["psnr"]:7.2f} dB   {dae["psnr_noisy"]:.2f} dB, noisy image; \
{dae["psnr_pca"]:.2f} dB, PCA of it
{f"{codes['bits_per_pixel']:.2f} bits per pixel, PSNR":44}{codes["psnr"]:7.2f} dB   \
{codes["psnr_pca"]:.2f} dB, PCA at as many bits, 8 per number
{"  without k-means start and revival, PSNR":44}{plain["psnr"]:7.2f} dB
{"codes in use":44}{codes["usage"]:10.0%}   {plain["usage"]:.0%} without start and revival
{"prior, bits per code":44}{prior["bits"]:10.2f}   {prior["bits_marginal"]:.2f}, \
frequencies alone

pictures  {folder}/pictures.png    (denoising; images, reconstructions and samples of the prior)
results   {folder}/results.json
Done in {seconds // 60} min {seconds % 60} s.  Your own images: see docs/AUTOENCODERS.md.""")


if __name__ == "__main__":
    main()
