"""Attentive probe: attention pooling of frozen patch tokens, then a linear classifier.

A linear probe uses one vector per image; here a small head (`model.AttentiveHead`) learns attention
weights over all tokens, because MAE's features are distributed over the patches.  Learning rate and
weight decay are selected on a tenth of the training images; a new head is then trained on all of
them and evaluated on the test set once.
"""
