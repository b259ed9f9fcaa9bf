"""Objectives: what a run learns.  Their contract: `declaration`, `base`; names: `registry`."""
