"""Small worlds, explored to the end: every interleaving of a few replicas' steps, on the real core."""
