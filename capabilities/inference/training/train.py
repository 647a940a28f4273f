"""Trains the weights and the vocabulary of `demo-generator`, a demonstration of streamed generation.

A decoder of three layers (1.3 million parameters) learns short English definitions: the glosses of WordNet
3.0. It serves to try the generation surfaces out on any machine, not to answer anybody's question.

Debian packages: python3-torch libopenblas0-pthread python3-sentencepiece wordnet-base
Usage: python3 train.py FOLDER [CPU_SECONDS]
Writes FOLDER/weights.safetensors (16-bit floats) and FOLDER/vocabulary.unigram; then run graph.ts FOLDER.
The corpus and the starting point are the same each time; the number of steps depends on the machine.
"""

import json
import math
import os
import random
import struct
import sys
import tempfile
import time

import numpy as np
import sentencepiece
import torch

WORDNET = "/usr/share/wordnet"
PARTS_OF_SPEECH = {"n": "noun", "v": "verb", "a": "adjective", "s": "adjective", "r": "adverb"}
PIECES, WIDTH, HEADS, LAYERS, POSITIONS = 2000, 160, 4, 3, 128
UNKNOWN, BEGIN, END = 0, 1, 2
BATCH, WINDOW, PEAK_RATE = 32, 48, 3e-3


def definitions():
    """One line for each synset, such as `river (noun): a large natural stream of water.`"""
    lines = []
    for part in ("noun", "verb", "adj", "adv"):
        with open(f"{WORDNET}/data.{part}", encoding="utf-8") as file:
            for line in file:
                if line.startswith(" ") or " | " not in line:
                    continue
                head, gloss = line.split(" | ", 1)
                fields = head.split(" ")
                word = fields[4].replace("_", " ").split("(")[0]
                meaning = " ".join(gloss.split('; "')[0].split())
                if 12 <= len(meaning) <= 160 and not any(c.isdigit() for c in word):
                    lines.append(f"{word} ({PARTS_OF_SPEECH[fields[2]]}): {meaning}.".lower())
    random.Random(1).shuffle(lines)
    return lines


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.ln1 = torch.nn.LayerNorm(WIDTH)
        self.qkv = torch.nn.Linear(WIDTH, 3 * WIDTH)
        self.out = torch.nn.Linear(WIDTH, WIDTH)
        self.ln2 = torch.nn.LayerNorm(WIDTH)
        self.fc1 = torch.nn.Linear(WIDTH, 4 * WIDTH)
        self.fc2 = torch.nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x, mask):
        batch, length, _ = x.shape
        heads = self.qkv(self.ln1(x)).view(batch, length, 3, HEADS, WIDTH // HEADS)
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        scores = (q @ k.transpose(-1, -2)) / math.sqrt(WIDTH // HEADS) + mask
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, WIDTH)
        x = x + self.out(mixed)
        return x + self.fc2(torch.relu(self.fc1(self.ln2(x))))


class Decoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens = torch.nn.Embedding(PIECES, WIDTH)
        self.positions = torch.nn.Embedding(POSITIONS, WIDTH)
        self.layers = torch.nn.ModuleList([Block() for _ in range(LAYERS)])
        self.ln = torch.nn.LayerNorm(WIDTH)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                ends_residual = name.endswith(("out.weight", "fc2.weight"))
                deviation = 0.02 / math.sqrt(2 * LAYERS) if ends_residual else 0.02
                torch.nn.init.normal_(parameter, 0, deviation)

    def forward(self, ids):
        length = ids.shape[1]
        x = self.tokens(ids) + self.positions(torch.arange(length))
        mask = torch.full((length, length), float("-inf")).triu(1)
        for layer in self.layers:
            x = layer(x, mask)
        return self.ln(x) @ self.tokens.weight.t()


def save_weights(model, path):
    """SafeTensors; the matrices of linear layers lie as [in, out], as MatMul wants them."""
    tensors = {}
    for name, parameter in model.state_dict().items():
        array = parameter.detach().numpy()
        if name.startswith("layers.") and array.ndim == 2:
            array = np.ascontiguousarray(array.T)
        tensors[name] = array.astype(np.float16)
    offset, header = 0, {}
    for name, array in tensors.items():
        header[name] = {
            "dtype": "F16",
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path + ".part", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in tensors.values():
            file.write(array.tobytes())
    os.replace(path + ".part", path)


def main(folder, budget):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    os.makedirs(folder, exist_ok=True)
    lines = definitions()
    with tempfile.TemporaryDirectory() as scratch:
        corpus = os.path.join(scratch, "corpus.txt")
        with open(corpus, "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
        sentencepiece.SentencePieceTrainer.train(
            input=corpus,
            model_prefix=os.path.join(scratch, "pieces"),
            vocab_size=PIECES,
            model_type="unigram",
            normalization_rule_name="nfkc",
            input_sentence_size=40_000,
            num_threads=1,
            minloglevel=2,
        )
        tokenizer = sentencepiece.SentencePieceProcessor(
            model_file=os.path.join(scratch, "pieces.model")
        )
    pieces = [[tokenizer.id_to_piece(i), round(tokenizer.get_score(i), 6)] for i in range(PIECES)]
    with open(os.path.join(folder, "vocabulary.unigram"), "w", encoding="utf-8") as file:
        json.dump(
            {
                "unknown": UNKNOWN,
                "begin": BEGIN,
                "end": END,
                "reserved": 3,
                "lowercase": True,
                "pieces": pieces,
            },
            file,
            ensure_ascii=False,
            separators=(",", ":"),
        )
    stream = np.array(
        [id for ids in tokenizer.encode(lines) for id in (BEGIN, *ids, END)], dtype=np.int64
    )
    print(len(lines), "definitions,", len(stream), "tokens", flush=True)

    model = Decoder()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.95), weight_decay=0.05
    )
    choice = np.random.RandomState(0)
    weights = os.path.join(folder, "weights.safetensors")
    began, step, average = time.process_time(), 0, None
    while (spent := (time.process_time() - began) / budget) < 1:
        rate = PEAK_RATE * min(1, (step + 1) / 50) * max(0.05, 1 - spent)
        for group in optimizer.param_groups:
            group["lr"] = rate
        starts = choice.randint(0, len(stream) - WINDOW - 1, BATCH)
        windows = torch.from_numpy(np.stack([stream[i : i + WINDOW + 1] for i in starts]))
        loss = torch.nn.functional.cross_entropy(
            model(windows[:, :-1]).reshape(-1, PIECES), windows[:, 1:].reshape(-1)
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        average = loss.item() if average is None else 0.98 * average + 0.02 * loss.item()
        if step % 100 == 0:
            print(f"step {step} loss {average:.3f} {spent:.0%}", flush=True)
            save_weights(model, weights)
    save_weights(model, weights)
    print(f"done: {step} steps, loss {average:.3f}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(sys.argv[1], float(sys.argv[2]) if len(sys.argv) == 3 else 335)
