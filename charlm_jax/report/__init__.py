"""Plain data to HTML pages and matplotlib figures; computes nothing."""
