"""Peak operations per second of GPUs, from the makers' data sheets."""

TERA = 1e12

PEAK_TFLOPS: dict[str, dict[str, float]] = {
    "B200": {"bf16": 2250, "fp32": 75},
    "GH200": {"bf16": 989, "fp32": 67},
    "H200": {"bf16": 989, "fp32": 67},
    "H100 NVL": {"bf16": 835, "fp32": 60},
    "H100 PCIe": {"bf16": 756, "fp32": 51},
    "H100": {"bf16": 989, "fp32": 67},
    "H800": {"bf16": 989, "fp32": 67},
    "A100": {"bf16": 312, "fp32": 19.5},
    "A800": {"bf16": 312, "fp32": 19.5},
    "A40": {"bf16": 149.7, "fp32": 37.4},
    "A30": {"bf16": 165, "fp32": 10.3},
    "A10G": {"bf16": 70, "fp32": 35},
    "A10": {"bf16": 125, "fp32": 31.2},
    "L40S": {"bf16": 362, "fp32": 91.6},
    "L40": {"bf16": 181, "fp32": 90.5},
    "L4": {"bf16": 121, "fp32": 30.3},
    "RTX A6000": {"bf16": 154.8, "fp32": 38.7},
    "RTX 6000 Ada": {"bf16": 364, "fp32": 91.1},
    "RTX 5090": {"bf16": 209.5, "fp32": 104.8},
    "RTX 4090": {"bf16": 165.2, "fp32": 82.6},
    "RTX 3090": {"bf16": 71, "fp32": 35.6},
    "V100": {"fp32": 15.7},
    "T4": {"fp32": 8.1},
}
"""TFLOP/s of dense matrix products with fp32 accumulation, by a part of the device's name, from the
makers' data sheets; fp32 is without TF32.  An earlier row wins; no bf16: the device has none."""

REDUCED_VARIANTS = {"laptop", "mig", "max", "d"}
"""words in device names of variants that are slower than their namesakes, by unknown factors"""


def peak_flops_of_name(name: str, precision: str) -> float | None:
    """Peak operations per second by device name, such as `NVIDIA H100 80GB HBM3`."""
    words = f" {name.replace('-', ' ')} ".lower()
    if REDUCED_VARIANTS & set(words.split()):
        return None
    for part, peaks in PEAK_TFLOPS.items():
        if f" {part.lower()} " in words:
            return peaks[precision] * TERA if precision in peaks else None
    return None
