"""Images to shards: `mae pack`."""
