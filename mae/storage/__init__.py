"""Remote shards: transport, retries, and the shard cache of a node."""
