"""Somebody else's implementations, one adapter a file, each offered where its package is installed.

All are timed over the same stretch: routing in, combined output out. Weights are laid out anew in prepare; what a peer
plans for each call (sorting, padding, offsets) is inside its time, because its callers pay for it too.
"""
