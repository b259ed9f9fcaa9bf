"""Prior over codes: a transformer that predicts the codes of a vqvae or fsq run."""
