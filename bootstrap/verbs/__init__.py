"""The verbs: each takes parsed arguments and returns a Result. None of them prints."""
