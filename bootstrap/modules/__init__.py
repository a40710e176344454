"""The module trees of a release: Spack's modules, binary packages' and what the site says, in one hierarchy.

``tree`` writes them, ``site`` adds what the configuration asks for, ``cache`` lets Lmod find them without reading them.
"""
