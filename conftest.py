"""The servers that tests find or start, once for the whole run; commands take the preset that costs least."""

import os
import signal

pytest_plugins = ["knnstore.testing.servers"]
os.environ["KNNSEG_PRESET"] = "tiny"

# A shell starts what is to run in the background deaf to Ctrl-C, and whatever a test starts would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
