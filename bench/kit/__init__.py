"""What all measurements share: clusters, payloads, the floor, spreads, reports, plots, one way to run."""
