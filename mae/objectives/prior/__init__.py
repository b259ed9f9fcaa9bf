"""Prior over codes: a transformer that predicts the codes of a vqvae, vqvae2 or fsq run."""
