"""A page to teach by clicking, and the evidence of a segment as pictures.

The server (:mod:`knnseg.studio.server`) needs the extra ``studio``; nothing else here does.
"""
