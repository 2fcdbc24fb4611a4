"""Bundles on the Hugging Face Hub: ``hf://org/name``, fetched only when asked for by that name.

``bundle.json`` comes first; then the files it lists, and nothing else of the repository.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sro_edge.errors import BundleError, MissingExtraError
from sro_edge.folders import check_room
from sro_edge.manifest import MANIFEST, files_of, read_manifest
from sro_edge.packed import cache_folder

PREFIX = "hf:/"
# pathlib makes one slash of two, so both are taken.
_NAME = re.compile(
    r"hf://?(?P<org>[\w-][\w.-]*)/(?P<name>[\w-][\w.-]*)(@(?P<revision>[\w][\w.-]*))?"
)


def fetch(address: str) -> Path:
    """Folder in the user's cache with the bundle at ``address``, brought up to date.

    Args:
        address: ``hf://org/name`` or ``hf://org/name@revision``.

    Raises:
        BundleError: no such address, or it cannot be reached, or holds no bundle.
        MissingExtraError: huggingface_hub is not installed.
    """
    match = _NAME.fullmatch(address)
    if match is None:
        raise BundleError(f"{address} is no address of a bundle: write hf://org/name[@revision]")
    try:
        import huggingface_hub
    except ImportError as error:
        raise MissingExtraError(f"--bundle {address}", "hub", "huggingface_hub") from error
    repository, revision = f"{match['org']}/{match['name']}", match["revision"]
    folder = cache_folder() / "hub" / f"{match['org']}--{match['name']}@{revision or 'main'}"
    _download(huggingface_hub, address, repository, revision, MANIFEST, folder)
    files = files_of(read_manifest(folder))
    check_room(folder, sum(r.bytes for n, r in files.items() if not (folder / n).is_file()))
    for name in files:
        _download(huggingface_hub, address, repository, revision, name, folder)
    return folder


def _download(
    hub: Any, address: str, repository: str, revision: str | None, name: str, folder: Path
) -> None:
    try:
        hub.hf_hub_download(repository, name, revision=revision, local_dir=folder)
    except Exception as error:  # the errors of the package and its HTTP client share no base
        raise BundleError(
            f"{name} of {address} cannot be fetched: {str(error).strip().splitlines()[0][:200]}"
            if str(error).strip()
            else f"{name} of {address} cannot be fetched: {type(error).__name__}"
        ) from error
