"""Errors a user can act on. Each message says what was given, why it cannot work, what to do."""


class SroEdgeError(Exception):
    """Base of every error that is the input's fault; the CLI prints it without traceback."""


class InputError(SroEdgeError):
    """The comments cannot be read as asked: missing file or column, wrong type, damaged file."""


class OutputError(SroEdgeError):
    """The output exists, is in use by another run, or cannot be written."""


class BundleError(SroEdgeError):
    """The bundle is incomplete, changed since it was written, or of an unknown version."""


class ModelError(SroEdgeError):
    """A model or tokenizer cannot be used for what was asked."""


class EngineError(SroEdgeError):
    """The process that holds the models died, or failed over some comments."""


class ExportError(SroEdgeError):
    """An export step failed or its proof found a figure outside the bound."""


class MissingExtraError(SroEdgeError):
    """A command needs packages of an optional extra."""

    def __init__(self, what: str, extra: str, missing: str) -> None:
        super().__init__(
            f"{what} needs the package {missing!r}, which is not installed: "
            f'run  pip install "sro-edge[{extra}]"'
        )
