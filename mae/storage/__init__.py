"""Remote shards: transport, retries, and a cache on this node."""
