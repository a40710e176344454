"""The releases that stand below /opt/petal: what each is, the way back to one, and what nobody needs any more."""
