"""Malformed input for the sessions, the codecs, the decoders and the server: see `__main__`."""
