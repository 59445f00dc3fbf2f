"""Implementations of the stages that need a neural network. Nothing here is imported before it is asked for."""
