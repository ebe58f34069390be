"""What runs beside the engine: the driver, its data threads, and their start and end."""
