"""What a round shows its reader: a verdict, a terminal summary and one HTML page, all drawn from summary.json."""
