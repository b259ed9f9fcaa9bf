"""Foundations: errors, exit status, atomic files, hashing, process group, device, progress."""
