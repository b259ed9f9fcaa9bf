"""Shards on servers, and the copies of them on this machine."""
