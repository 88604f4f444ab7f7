"""The mathematics that every implementation shares, on tensors."""
