"""Documents as HTML pages, charts and figures."""
