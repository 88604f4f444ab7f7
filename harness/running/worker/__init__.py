"""The child process: what only it runs, and what only it may import torch for."""
