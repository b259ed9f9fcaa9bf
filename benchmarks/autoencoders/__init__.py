"""Autoencoders beside their baselines, with several seeds: `python -m benchmarks.autoencoders`.

- `data_sets`: settings of each data set, and the rows of its table (add a row here).
- `members`: what each member is compared with (add a member here).
- `denoising`, `coding`: baselines, whose settings are the best of a small grid on the test images.
- `comparison`: runs, evaluations, table.
"""
