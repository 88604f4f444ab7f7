"""What routing looks like, and which generator it resembles: load, repeats along the text, experts chosen together."""
