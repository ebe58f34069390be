"""What the engine's author touches: Replicator, Tenure, Ticket."""
