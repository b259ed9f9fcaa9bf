"""Linear probe of the paper (He et al. 2021, appendix A.1, table 10), as in its released code."""
