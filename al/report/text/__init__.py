"""Documents for the terminal and as Markdown."""
