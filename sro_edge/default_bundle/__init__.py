"""The embedded bundle: the models that work right after install."""
