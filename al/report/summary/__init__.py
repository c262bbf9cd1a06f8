"""Documents of a round: summary.json and details.json, made from the artifacts of the run."""
