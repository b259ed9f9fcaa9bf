"""Commands of `mae`: a module each, with its options (`add_parser`) and its work (`run`).

Modules are imported for `mae --help`: what is slow to import (torch) is imported inside functions.
Shared: `options` (torch-free), `shard_cache`, `pictures`, `frozen_encoders`, `trained_head`.
"""
