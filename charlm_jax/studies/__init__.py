"""What studies conclude from their runs: numbers first, then words made from the numbers."""
