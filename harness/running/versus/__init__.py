"""Two revisions of the code measured side by side, in pairs of fresh workers: ``compare --rev``."""
