"""Train the embedded checkpoint `tiny` from the public-domain corpora beside this file.

    python -m kvproof.gpt2.train                # the whole run, about 45 minutes on one core, into ./tiny
    python -m kvproof.gpt2.train --steps 20     # a taste

Writes model.safetensors (float16, the weights of the lowest held-out loss), config.json, vocab.bpe and loss.jsonl into
a folder that `load` takes. A folder with files in it is refused without --force. The corpora are in a clone, not in the
wheel; --corpus names others.
"""

import argparse
import json
import math
import re
import sys
import time
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from safetensors.torch import save as to_bytes

from ..reference.config import Config
from .cli.interrupt import INTERRUPTED, abandon_output
from .cli.output_file import check_folder, write
from .cli.progress import Progress
from .linear import Conv1D
from .model import GPT2
from .tokenizer import Tokenizer

HERE = Path(__file__).parent
TINY = HERE / "checkpoints" / "tiny"
CORPUS = HERE / "corpus"
SPAN = 1024  # tokens of the longest window trained on: the whole context
HELD_OUT = 0.05  # the last part of each corpus, never trained on
DROPOUT = 0.15  # on what each residual branch adds; the model itself has none


def tiny_config(tokenizer: Tokenizer) -> Config:
    """1.6 M parameters: 6 layers of 4 heads, head_dim 32."""
    return Config(
        n_vocab=tokenizer.n_vocab, n_ctx=1024, n_embd=128, n_head=4, n_layer=6, n_inner=512, eos_token_id=tokenizer.eot
    )


def read_corpora(tokenizer: Tokenizer, corpus: Path = CORPUS) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Token ids to train on, and those held out of each corpus; <|endoftext|> begins every text and every tale.

    corpus  a folder of .txt files
    Raises ValueError if there are none, or too short.
    """
    train, held_out = [], {}
    for path in sorted(corpus.glob("*.txt")):
        tales = re.split(r"\n{3,}(?=[A-Z][A-Z ,'\u2019-]+\n)", path.read_text(encoding="utf-8"))
        ids = torch.tensor([i for tale in tales for i in (tokenizer.eot, *tokenizer.encode(tale))])
        cut = int(len(ids) * (1 - HELD_OUT))
        train.append(ids[:cut])
        held_out[path.stem] = ids[cut:]
    if not train:
        hint = "; it is in a clone alone, not in an installed package" if corpus == CORPUS else ""
        raise ValueError(f"the folder {corpus} holds no .txt to train on{hint}; name a folder that does with --corpus")
    ids = torch.cat(train)
    if len(ids) <= SPAN or min(map(len, held_out.values())) < 2:
        raise ValueError(
            f"the texts in {corpus} are too short: {len(ids)} tokens to train on, more than {SPAN} must be"
        )
    return ids, held_out


def initialise(model: GPT2):
    """GPT-2's initial values: normal(0, 0.02), residual projections divided by sqrt(2 n_layer), biases 0, gains 1."""
    for module in model.modules():
        if isinstance(module, Conv1D):
            torch.nn.init.normal_(module.weight, std=0.02)
            torch.nn.init.zeros_(module.bias)
        elif isinstance(module, torch.nn.Embedding):
            torch.nn.init.normal_(module.weight, std=0.02)
    for projection in residual_projections(model):
        torch.nn.init.normal_(projection.weight, std=0.02 / math.sqrt(2 * model.config.n_layer))


def residual_projections(model: GPT2) -> list[Conv1D]:
    """The last layer of every residual branch."""
    return [cast(Conv1D, branch.c_proj) for block in model.blocks for branch in (block.attn, block.mlp)]


def drop(module: torch.nn.Module, args, output: torch.Tensor) -> torch.Tensor:
    """A forward hook: dropout on the module's output in training."""
    return F.dropout(output, DROPOUT, module.training)


def batch(ids, tokens: int, span: int, rng):
    """tokens / span random windows of span + 1 ids: (B, span + 1)."""
    starts = torch.randint(len(ids) - span, (tokens // span,), generator=rng)
    return torch.stack([ids[s : s + span + 1] for s in starts])


@torch.no_grad()
def held_out_loss(model, ids) -> float:
    """Cross-entropy in nats per token over consecutive windows of SPAN tokens, each on its own."""
    training = model.training
    model.eval()
    total = count = 0
    for low in range(0, len(ids) - 1, SPAN):
        window = ids[None, low : low + SPAN + 1]
        if window.shape[1] > 1:
            total += model.loss(window, "none").sum().item()
            count += window.shape[1] - 1
    model.train(training)
    return total / count


def save(model, out: Path):
    """model.safetensors in float16 and config.json, in Hugging Face's spelling, each whole or not at all."""
    config = model.config
    tensors = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    write(out / "model.safetensors", to_bytes(tensors, {"format": "pt"}))
    sizes = ("n_ctx", "n_embd", "n_head", "n_layer", "n_inner")
    fields = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": config.n_vocab}
    fields |= {"n_positions": config.n_ctx} | {name: getattr(config, name) for name in sizes}
    fields |= {"activation_function": "gelu_new", "layer_norm_epsilon": config.layer_norm_epsilon}
    fields |= {"tie_word_embeddings": True, "bos_token_id": config.eos_token_id, "eos_token_id": config.eos_token_id}
    write(out / "config.json", json.dumps(fields, indent=1) + "\n")


def learning_rate(step: int, steps: int, peak: float) -> float:
    """A linear warm-up over 100 steps, then a cosine down to a twentieth of the peak."""
    if step < 100:
        return peak * (step + 1) / 100
    return peak * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (step - 100) / max(1, steps - 100))))


def evaluate(model, held_out: dict[str, torch.Tensor]) -> dict[str, float]:
    """Held-out loss of each corpus, and over all their tokens as "held_out"."""
    losses = {name: held_out_loss(model, ids) for name, ids in held_out.items()}
    total = sum(losses[name] * len(ids) for name, ids in held_out.items())
    return {"held_out": total / sum(map(len, held_out.values())), **losses}


def make_optimizer(model) -> torch.optim.Optimizer:
    """AdamW, with weight decay on matrices alone."""
    matrices = [p for p in model.parameters() if p.ndim == 2]
    rest = [p for p in model.parameters() if p.ndim != 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.95))


def train(steps: int, tokens: int, peak: float, every: int, out: Path, corpus: Path = CORPUS):
    """Train tiny for `steps` batches of `tokens` tokens, keeping in `out` the weights of the lowest held-out loss.

    Raises ValueError for a corpus that is none, OSError for a folder that cannot be written.
    """
    torch.manual_seed(0)
    rng = torch.Generator().manual_seed(0)
    tokenizer = Tokenizer.from_merges(TINY / "vocab.bpe")
    ids, held_out = read_corpora(tokenizer, corpus)
    model = GPT2(tiny_config(tokenizer))
    initialise(model)
    for projection in residual_projections(model):
        projection.register_forward_hook(drop)
    optimizer = make_optimizer(model)
    best, started, recent = math.inf, time.time(), []
    out.mkdir(parents=True, exist_ok=True)
    write(out / "vocab.bpe", (TINY / "vocab.bpe").read_bytes())
    with (out / "loss.jsonl").open("w") as log, Progress("training, steps", steps) as line:
        for step in range(1, steps + 1):
            # Every third batch spans the full context, so that every position is trained.
            loss = model.loss(batch(ids, tokens, SPAN if step % 3 == 1 else 256, rng))
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step - 1, steps, peak)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            recent.append(loss.item())
            line.update()
            if step % every == 0 or step == steps:
                row = {"step": step, "tokens": step * tokens, "train": sum(recent) / len(recent)}
                row = {name: round(x, 4) for name, x in (row | evaluate(model, held_out)).items()}
                text = json.dumps(row | {"seconds": round(time.time() - started)})
                line.print(text)
                if row["held_out"] < best:
                    best = row["held_out"]
                    save(model, out)
                print(text, file=log, flush=True)
                recent = []


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m kvproof.gpt2.train", description="Train a checkpoint as the embedded one, tiny, was trained."
    )
    parser.add_argument("--steps", type=int, default=2000, help="batches to train on (default %(default)s)")
    parser.add_argument("--tokens", type=int, default=4096, help="tokens per batch (default %(default)s)")
    parser.add_argument("--lr", type=float, default=3e-3, help="peak learning rate (default %(default)s)")
    parser.add_argument("--every", type=int, default=100, help="batches between held-out losses (default %(default)s)")
    parser.add_argument("--corpus", type=Path, help="folder of .txt files (default: the clone's own)")
    parser.add_argument("--out", type=Path, default=Path("tiny"), help="folder to write (default ./%(default)s)")
    parser.add_argument("--force", action="store_true", help="write into a folder that is not empty")
    args = parser.parse_args(argv)
    for name, least in (("steps", 1), ("tokens", SPAN), ("every", 1)):
        if getattr(args, name) < least:
            parser.error(f"--{name} is {getattr(args, name)}; it must be {least} or more")
    if not (math.isfinite(args.lr) and args.lr > 0):
        parser.error(f"--lr is {args.lr}; it must be a number above 0")
    return args


def main(argv: list[str] | None = None) -> int:
    """Train.  Returns the exit code: 0, 1 if a file could not be written, 2 for a mistake in the call, 130 Ctrl-C."""
    args = parse(argv)
    try:
        check_folder(args.out)
        if args.out.is_dir() and any(args.out.iterdir()) and not args.force:
            raise ValueError(f"{args.out} is not empty; name another --out, or add --force to overwrite its files")
        train(args.steps, args.tokens, args.lr, args.every, args.out, args.corpus or CORPUS)
    except BrokenPipeError:
        abandon_output()
    except (ValueError, OSError) as error:
        what = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else error
        print(f"python -m kvproof.gpt2.train: {what}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    except KeyboardInterrupt:
        print(f"interrupted; the best weights so far, if any, are in {args.out}", file=sys.stderr)
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
