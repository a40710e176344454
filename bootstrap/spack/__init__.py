"""Runs real Spack hermetically: its program and recipes, its configuration scope, its command line, its database."""
