"""Attentive probe: attention pooling of frozen patch tokens, then a linear classifier.

A linear probe reads one vector of an image; here a small head learns where to look among all
tokens (see `head`), as MAE leaves what it knows in the patches.  Learning rate and weight decay are
chosen on a tenth of the training images; a new head is then trained on all of them and meets the
test set once.
"""
