"""Builds the archive, the one file that every node runs: an sh header, a loader and a tree that is unpacked once."""
