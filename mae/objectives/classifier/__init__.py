"""Classification with labels: fine-tuning (He et al. 2021, appendix A.1, table 9)."""
