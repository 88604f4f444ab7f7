"""How a number is taken."""
