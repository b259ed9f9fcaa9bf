"""Finite scalar quantisation (Mentzer et al. 2023, arXiv:2309.15505)."""
