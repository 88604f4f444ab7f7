"""What is measured. Pure data: nothing here imports torch."""
