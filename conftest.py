"""The servers that tests find or start, once for the whole run; commands take the preset that costs least."""

import os

pytest_plugins = ["knnstore.testing.servers"]
os.environ["KNNSEG_PRESET"] = "tiny"
