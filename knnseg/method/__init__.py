"""The equations, as pure functions on the values of :mod:`knnseg.data`."""
