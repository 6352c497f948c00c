"""llama.cpp's server, as llama-cpp-python has it, with a small random GPT-2 whose tokens are printable characters."""

import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from kvproof.bench.measure.peers.llamacpp import gguf_tensors, gguf_type
from kvproof.reference.config import Config
from kvproof.reference.synthetic import random_tensors

CHARACTERS = [chr(i) for i in range(33, 127)]
TOKENS = ["<unk>", "<s>", "</s>", "\u2581", *CHARACTERS]  # SentencePiece's names: U+2581 is the space
CONFIG = Config(n_vocab=len(TOKENS), n_ctx=128, n_embd=64, n_head=4, n_layer=3, n_inner=128)
NORMAL, UNKNOWN, CONTROL = 1, 2, 3


def write_model(path: Path, begins: bool, seed: int = 0) -> Path:
    """A GGUF file of float32; `begins` says whether its tokenizer puts a token before each text."""
    import gguf

    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_block_count(CONFIG.n_layer)
    writer.add_context_length(CONFIG.n_ctx)
    writer.add_embedding_length(CONFIG.n_embd)
    writer.add_feed_forward_length(CONFIG.n_inner)
    writer.add_head_count(CONFIG.n_head)
    writer.add_layer_norm_eps(CONFIG.layer_norm_epsilon)
    writer.add_vocab_size(CONFIG.n_vocab)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(TOKENS)
    writer.add_token_scores([0.0] * 3 + [-float(i) for i in range(len(TOKENS) - 3)])
    writer.add_token_types([UNKNOWN, CONTROL, CONTROL, *[NORMAL] * (len(TOKENS) - 3)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(begins)
    writer.add_add_space_prefix(False)
    for name, array in gguf_tensors(dict(random_tensors(CONFIG, seed))):
        writer.add_tensor(name, array.astype("float32"), raw_dtype=gguf_type("F32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@contextmanager
def llama_server(model: Path, *options: str) -> Iterator[str]:
    """The URL of a server of a GGUF file, in a process of its own while the context is open."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(model), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--logits_all", "true", *options]
    url = f"http://127.0.0.1:{port}/v1"
    with tempfile.TemporaryFile("w+") as log:  # a pipe that nobody reads would stop it
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_for(url, process, log)
            yield url
        finally:
            process.terminate()
            process.wait(timeout=30)


def wait_for(url: str, process: subprocess.Popen, log: IO[str], seconds: float = 90.0):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if process.poll() is not None:
            log.seek(0)
            raise RuntimeError(f"the server ended with {process.returncode}: {log.read()[-2000:]}")
        try:
            with urllib.request.urlopen(f"{url}/models", timeout=5):
                return
        except OSError:
            time.sleep(0.3)
    raise RuntimeError(f"the server was not there after {seconds:g} s")
