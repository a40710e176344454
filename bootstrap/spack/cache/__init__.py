"""Build caches: what one package looks like in them, taken and verified, signed and sent."""
