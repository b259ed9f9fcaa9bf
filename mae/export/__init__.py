"""The encoder in the formats of other tools."""
