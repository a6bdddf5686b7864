"""Side-by-side measurements of hybrid_compute, the stdlib's pools and other libraries."""
