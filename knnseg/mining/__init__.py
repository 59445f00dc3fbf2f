"""Concepts found in images that nobody has drawn on: unknown regions in clusters, and what images of one name share."""
