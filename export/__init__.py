"""Command line of sro-edge."""
