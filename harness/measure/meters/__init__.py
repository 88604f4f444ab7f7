"""What is measured besides time, one meter a file."""
