"""Training objectives; their contract is in `declaration` and `base`, their names in `registry`."""
