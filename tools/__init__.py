"""Plumbing of the course: what the Makefile and the Sphinx build call; never the library."""
