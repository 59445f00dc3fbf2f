"""Label Studio: an ML backend that predicts, and learns from annotations.

What a prediction looks like is in :mod:`knnseg.export.label_studio`.
"""
