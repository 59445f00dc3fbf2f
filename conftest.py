"""The servers that tests find or start, once for the whole run."""

pytest_plugins = ["knnstore.testing.servers"]
