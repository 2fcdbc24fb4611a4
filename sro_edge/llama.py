"""A GGUF model in llama.cpp: loading, tokens, and contexts that many sequences share.

All ctypes of the package is here and in :mod:`sro_edge.ggml_buffers`;
:mod:`sro_edge.detoxifier` decides what to decode when.
"""

from __future__ import annotations

import ctypes
import functools
import os
import weakref
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sro_edge.errors import BundleError, ModelError
from sro_edge.ggml_buffers import leave_out_amx
from sro_edge.headers import read_gguf

Floats = npt.NDArray[np.float32]

_BATCH_TOKENS = 512  # tokens of one step; longer prompts are read over several steps
_ALL_LAYERS = 9999
_ERROR, _CONTINUED = 4, 5  # ggml log levels
_SPINS = 1000


class Model:
    """A loaded model: its weights, which any number of contexts share, and its vocabulary.

    Args:
        path: the GGUF file.
        device: ``cpu``, ``cuda``, or ``auto`` for the GPU where llama.cpp was built for one.

    Raises:
        BundleError: llama.cpp cannot read the file.
        ModelError: the device cannot be had.
    """

    def __init__(self, path: Path, *, device: str) -> None:
        """Load the weights."""
        self._lib = library()
        self.path = path
        self.on_gpu = _use_gpu(self._lib, device)
        self.handle = _load_model(self._lib, path, self.on_gpu)
        self._finalizer = weakref.finalize(self, self._lib.llama_model_free, self.handle)
        self.bytes = int(self._lib.llama_model_size(self.handle))  # of all weights
        self.fp32 = self.bytes >= 4 * self._lib.llama_model_n_params(self.handle)
        # A recurrent state cannot be taken back to an earlier token.
        self.can_cut = not (
            self._lib.llama_model_is_recurrent(self.handle)
            or self._lib.llama_model_is_hybrid(self.handle)
        )
        self._vocab = self._lib.llama_model_get_vocab(self.handle)
        self._pieces: dict[int, bytes] = {}
        self.bias, self.end_tokens = self._read_vocabulary()

    def close(self) -> None:
        """Free the weights, once no context is left; safe to call twice."""
        self._finalizer()

    def tokenize(self, text: str, parse_special: bool) -> list[int]:
        """Token ids of ``text``; control tokens in it are recognised only on ``parse_special``."""
        data = text.encode("utf-8", "replace")
        room = len(data) + 2
        while True:
            ids = (ctypes.c_int32 * room)()
            count = self._lib.llama_tokenize(
                self._vocab, data, len(data), ids, room, False, parse_special
            )
            if count >= 0:
                return ids[:count]
            room = -count

    def text(self, tokens: list[int]) -> str:
        """What ``tokens`` spell; control tokens spell nothing, broken UTF-8 becomes U+FFFD."""
        return b"".join(self._piece(token) for token in tokens).decode("utf-8", "replace")

    def _piece(self, token: int) -> bytes:
        if token not in self._pieces:
            buffer = ctypes.create_string_buffer(64)
            length = self._lib.llama_token_to_piece(self._vocab, token, buffer, 64, 0, False)
            if length < 0:
                buffer = ctypes.create_string_buffer(-length)
                length = self._lib.llama_token_to_piece(
                    self._vocab, token, buffer, -length, 0, False
                )
            self._pieces[token] = buffer.raw[:length]
        return self._pieces[token]

    def _read_vocabulary(self) -> tuple[Floats, frozenset[int]]:
        """What to add to logits (V,) so that no control token is drawn; and the end tokens."""
        lib = self._lib
        barred = (
            lib.LLAMA_TOKEN_ATTR_CONTROL
            | lib.LLAMA_TOKEN_ATTR_UNKNOWN
            | lib.LLAMA_TOKEN_ATTR_UNUSED
        )
        size = lib.llama_vocab_n_tokens(self._vocab)
        ends = frozenset(t for t in range(size) if lib.llama_vocab_is_eog(self._vocab, t))
        bias = np.zeros(size, dtype=np.float32)
        for token in range(size):
            if token not in ends and lib.llama_vocab_get_attr(self._vocab, token) & barred:
                bias[token] = -np.inf
        return bias, ends


class Context:
    """A context of a model, which many sequences share. One thread at a time may use it.

    Every sequence has memory of its own, so attention never walks over its neighbours. On a CPU a
    q8_0 or q4_0 model then gives a token the same logits, bit for bit, whatever else is in the
    batch and whether 1 or 63 tokens of the sequence are read in one step, as long as the sequence
    has up to 256 tokens (with one memory for all they moved by 0.1).

    Args:
        model: what to run; it must stay open as long as the context is.
        threads: CPU threads of a step; the attribute of this name may be changed between steps.
        sequences: how many sequences the context keeps apart.
        longest: tokens of the longest sequence.
        rows: logits of one step, at most; default one for each sequence.

    Raises:
        ModelError: a context of these sizes cannot be had.
    """

    def __init__(
        self, model: Model, *, threads: int, sequences: int, longest: int, rows: int | None = None
    ) -> None:
        """Make the context."""
        self._lib = library()
        trained = self._lib.llama_model_n_ctx_train(model.handle)
        if longest > trained:
            raise ModelError(
                f"prompt and answer may have {longest} tokens together, but {model.path} was "
                f"trained for {trained}; lower max_prompt_tokens or max_new_tokens"
            )
        self.model, self.threads, self._applied = model, threads, threads
        cells, rows = sequences * longest, rows or sequences
        self._handle = _make_context(self._lib, model.handle, threads, sequences, cells, rows)
        self._finalizer = weakref.finalize(self, self._lib.llama_free, self._handle)
        self._memory = self._lib.llama_get_memory(self._handle)
        self.batch = Batch(self._lib, self._lib.llama_n_batch(self._handle))

    def close(self) -> None:
        """Free its memory; safe to call twice."""
        self._finalizer()

    def decode(self) -> Floats:
        """Run the batch.

        Sequences of one length and with neighbouring numbers are evaluated together, so a batch
        should name them in the order of their numbers.

        Returns:
            Logits (R, V) of the rows asked for, in the order of the batch, valid until the next
            call; minus infinity where a token must never be drawn (control tokens that end
            nothing).

        Raises:
            ModelError: llama.cpp refused the batch.
        """
        threads = self.threads
        if threads != self._applied:
            self._lib.llama_set_n_threads(self._handle, threads, threads)
            self._applied = threads
        code = self._lib.llama_decode(self._handle, self.batch.struct)
        if code != 0:
            raise ModelError(
                f"llama.cpp could not decode a batch (code {code}: {_last_error()}); "
                "use fewer slots or a smaller model if memory is short"
            )
        bias = self.model.bias
        shape = (self.batch.rows, len(bias))
        if not self.batch.rows:
            return np.empty(shape, dtype=np.float32)
        pointer = self._lib.llama_get_logits(self._handle)
        logits: Floats = np.ctypeslib.as_array(pointer, shape=shape)
        return np.add(logits, bias, out=logits)

    def copy(self, source: int, target: int) -> None:
        """Make sequence ``target``, whatever it held, a copy of ``source``."""
        self._lib.llama_memory_seq_cp(self._memory, source, target, -1, -1)

    def cut(self, sequence: int, length: int) -> None:
        """Drop the tokens of a sequence from place ``length`` on; see ``Model.can_cut``."""
        self._lib.llama_memory_seq_rm(self._memory, sequence, length, -1)

    def drop(self, sequence: int) -> None:
        """Empty a sequence."""
        self._lib.llama_memory_seq_rm(self._memory, sequence, -1, -1)


class Batch:
    """A llama_batch over numpy arrays, so that runs of tokens are written as slices."""

    def __init__(self, lib: Any, size: int) -> None:
        """Room for ``size`` tokens."""
        self.rows = 0
        self._token = np.zeros(size, dtype=np.int32)
        self._position = np.zeros(size, dtype=np.int32)
        self._sequence = np.zeros(size, dtype=np.int32)
        self._logits = np.zeros(size, dtype=np.int8)
        self._one = np.ones(size, dtype=np.int32)
        offsets = np.arange(size, dtype=np.uintp) * self._sequence.itemsize
        self._sequence_address = offsets + np.uintp(self._sequence.ctypes.data)
        kinds = dict(lib.llama_batch._fields_)
        self.struct = lib.llama_batch(
            n_tokens=0,
            token=self._token.ctypes.data_as(kinds["token"]),
            pos=self._position.ctypes.data_as(kinds["pos"]),
            n_seq_id=self._one.ctypes.data_as(kinds["n_seq_id"]),
            seq_id=self._sequence_address.ctypes.data_as(kinds["seq_id"]),
            logits=self._logits.ctypes.data_as(kinds["logits"]),
        )

    def clear(self) -> None:
        """Forget all tokens."""
        self.struct.n_tokens = 0
        self.rows = 0

    @property
    def tokens(self) -> int:
        """Tokens in it."""
        return int(self.struct.n_tokens)

    @property
    def size(self) -> int:
        """Tokens that fit."""
        return len(self._token)

    def add(self, tokens: Sequence[int], position: int, sequence: int, rows: int) -> None:
        """Append ``tokens``, which must fit.

        Args:
            tokens: what the sequence reads next.
            position: place of the first of them in the sequence.
            sequence: number of the sequence.
            rows: how many of the last of ``tokens`` give a row of logits each.
        """
        start = self.tokens
        stop = start + len(tokens)
        self._token[start:stop] = tokens
        self._position[start:stop] = np.arange(position, position + len(tokens))
        self._sequence[start:stop] = sequence
        self._logits[start:stop] = 0
        self._logits[stop - rows : stop] = 1
        self.rows += rows
        self.struct.n_tokens = stop


def _use_gpu(lib: Any, device: str) -> bool:
    if device not in ("auto", "cpu", "cuda"):
        raise ModelError(f"device must be auto, cpu or cuda, not {device!r}")
    offload: bool = lib.llama_supports_gpu_offload()
    if device == "cuda" and not offload:
        raise ModelError(
            "device 'cuda' was asked for, but llama.cpp has none: the installed llama-cpp-python "
            "was built for the CPU only, or no GPU is seen (`nvidia-smi`). Run  "
            'CMAKE_ARGS="-DGGML_CUDA=on" pip install --force-reinstall --no-cache-dir --no-deps '
            "--no-binary llama-cpp-python llama-cpp-python  or use device 'cpu'"
        )
    return offload and device != "cpu"


def _load_model(lib: Any, path: Path, gpu: bool) -> Any:
    read_gguf(path)
    params = lib.llama_model_default_params()
    params.n_gpu_layers = _ALL_LAYERS if gpu else 0
    no_devices = (ctypes.c_void_p * 1)()
    if not gpu:
        params.devices = ctypes.cast(no_devices, ctypes.c_void_p)
    _errors.clear()
    model = lib.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        raise BundleError(
            f"{path} cannot be loaded by llama.cpp ({'; '.join(_errors) or 'no reason given'}); "
            "export or copy the bundle again"
        )
    return model


def _make_context(lib: Any, model: Any, threads: int, sequences: int, cells: int, rows: int) -> Any:
    most = lib.llama_max_parallel_sequences()
    if sequences > most:
        raise ModelError(f"{sequences} sequences were asked for, llama.cpp keeps at most {most}")
    params = lib.llama_context_default_params()
    params.n_ctx = cells
    params.n_batch = params.n_ubatch = max(_BATCH_TOKENS, sequences)
    params.n_seq_max = sequences
    params.n_outputs_max = rows  # else llama.cpp reserves memory for a whole batch of logits
    params.n_threads = params.n_threads_batch = threads
    params.kv_unified = False
    _errors.clear()
    context = lib.llama_init_from_model(model, params)
    if not context:
        raise ModelError(
            f"llama.cpp could not make a context of {cells} tokens ({_last_error()}); "
            "use fewer slots or lower limits"
        )
    return context


_errors: deque[str] = deque(maxlen=4)
_log_level = 0


@functools.cache
def library() -> Any:
    """The llama_cpp module, initialised, its log kept off the terminal."""
    # GNU OpenMP reads this as it is loaded: how often a thread looks before it sleeps at a barrier,
    # of which a step has hundreds. By default it looks for milliseconds and burns its core: where
    # threads share a step, two processes on the same cores then take 30 times as long as one.
    os.environ.setdefault("GOMP_SPINCOUNT", str(_SPINS))
    import llama_cpp

    llama_cpp.llama_log_set(_log_callback(llama_cpp), None)
    llama_cpp.llama_backend_init()
    leave_out_amx()
    return llama_cpp


@functools.cache  # keeps the callback alive for as long as llama.cpp may call it
def _log_callback(lib: Any) -> Any:
    def remember(level: int, text: bytes, _user_data: object) -> None:
        global _log_level
        _log_level = _log_level if level == _CONTINUED else level
        if _log_level == _ERROR:
            _errors.append(text.decode("utf-8", "replace").strip())

    return lib.llama_log_callback(remember)


def _last_error() -> str:
    return _errors[-1] if _errors else "it gave no reason"
