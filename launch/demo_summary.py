"""Summary of demo.sh's results: python launch/demo_summary.py FOLDER SECONDS."""

import json
import sys
from pathlib import Path


def main() -> None:
    """Read the results of the demo's commands and print them in ten lines."""
    folder, seconds = Path(sys.argv[1]), int(sys.argv[2])
    explained = json.loads((folder / "reconstruction.json").read_text())
    probe = json.loads((folder / "run" / "probe.json").read_text())
    accuracy = {(r["encoder"], r["feature"], r["per_class"]): r for r in probe["results"]}

    def shown(encoder: str, feature: str) -> str:
        rows = [accuracy[encoder, feature, budget] for budget in (None, 10)]
        return "".join(f"{r['accuracy']:>12.1%} ± {100 * r['deviation']:.1f}" for r in rows)

    print(f"""
{"hidden patches explained (R²)":34}{"model":>9}{"interpolation":>17}{"patch mean":>14}
{f"{explained['images']} test images, 75 % hidden":34}{explained["model"]:>9.2f}\
{explained["interpolation"]:>17.2f}{explained["patch_mean"]:>14.2f}

{"linear probe, test accuracy":34}{"all labels":>15}{"10 per class":>18}
{"pretrained encoder":34}{shown("pretrained", "mean")}
{"same encoder, untrained":34}{shown("untrained", "mean")}
{"raw pixels":34}{shown("raw", "pixels")}

encoder   {folder}/encoder    (timm.create_model("local-dir:{folder}/encoder", pretrained=True))
pictures  {folder}/reconstruction.png
run       {folder}/run    (config, metrics, checkpoints, panels)
Done in {seconds // 60} min {seconds % 60} s.  Now your own images: see README.md.""")


if __name__ == "__main__":
    main()
