"""Ladder of Gaussian groups, top-down (Sønderby et al. 2016; Vahdat and Kautz 2020)."""
