"""Tests of the pictures of a recording."""
