"""What is kept: one record for each implementation in each bout."""
