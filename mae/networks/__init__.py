"""Network parts: timm's Vision Transformer, parameter groups, pixels and patches."""
