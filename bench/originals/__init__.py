"""Models that trainers train, written from their public definitions in plain torch.

They stand for "the original" where ``bench/corpus.py`` asks what the product says of a checkpoint.
Each file is what a training repository has as its ``model.py``: it imports nothing of this
package, and the defaults of its configuration class are the repository's, so that a fork is the
file with other defaults. ``table.py`` lists the forks.
"""
