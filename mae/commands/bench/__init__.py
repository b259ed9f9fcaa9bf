"""`mae bench`: speed and memory of training on this machine."""
