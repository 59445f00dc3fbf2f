"""What can be plugged in: the protocols of the stages, and the registry that makes them by name."""
