"""The paper's linear probe (He et al. 2021, appendix A.1, table 10), as its authors ran it."""
