"""FineSteer as mathematics: numpy, scipy and scikit-learn; no llama.cpp and no files.

`gates` (when to steer: SCS) and `experts` (how: MoSE) are estimators that are fitted; `folded` is what is left of them after a
fit, and all that a decision needs.
"""
