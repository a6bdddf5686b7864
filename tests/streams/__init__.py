"""Streams, everywhere the same."""
