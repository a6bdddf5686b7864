"""The testing kit: the suites find what is broken, and nothing else; the fakes do as told."""
