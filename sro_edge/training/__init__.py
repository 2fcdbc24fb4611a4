"""Training: the screener, the warm start and SRO itself. Needs the extra ``train``."""
