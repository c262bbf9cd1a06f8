"""What a round shows its reader: a verdict, a terminal summary and a self-contained HTML page, all drawn from summary.json."""
