"""Similarity of images by their features: tables of embeddings, maps, duplicates, retrieval."""
