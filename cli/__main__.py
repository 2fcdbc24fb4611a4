"""``python -m sro_edge.cli``, as ``accelerate launch -m`` needs it."""

from sro_edge.cli import main

main()
