"""Classes of timm's that are encoders: one adapter per class, none of them changed."""
