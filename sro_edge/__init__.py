"""Offline text detoxification: rewords toxic comments with a small local model, screener-gated.

>>> from sro_edge import Rewriter
>>> for rewrite in Rewriter.load().rewrite(["what a stupid idea", "thanks!"]):
...     print(rewrite.status, rewrite.text)
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Bundle", "Rewrite", "Rewriter", "SroEdgeError", "__version__"]

if TYPE_CHECKING:
    from sro_edge.bundle import Bundle
    from sro_edge.errors import SroEdgeError
    from sro_edge.job import Rewrite
    from sro_edge.rewriter import Rewriter

_HOMES = {
    "Bundle": "bundle",
    "Rewrite": "job",
    "Rewriter": "rewriter",
    "SroEdgeError": "errors",
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used: ``import sro_edge`` itself stays light."""
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(f"sro_edge.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'sro_edge' has no attribute {name!r}")
