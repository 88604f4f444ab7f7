"""Where a number is taken: the parent that never imports torch, and the child that does."""
