"""CPython's own tests of `concurrent.futures`, with the executor class swapped.

The package `test.test_concurrent_futures` is imported from an installed interpreter as it is:
`suite` finds it, `adapt` derives test cases from it in which our classes stand in the place of
the stdlib's, `exclusions` lists what is not run, and why. Needs Python 3.12 or newer, or beside
an older Python another one that is newer, from which the package is then borrowed.
"""
