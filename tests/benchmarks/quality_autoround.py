# SPDX-License-Identifier: Apache-2.0
"""AutoRound from PyPI on a checkpoint; run by the peer's Python (torch, transformers, auto-round).

    PEER_PYTHON tests/benchmarks/quality_autoround.py CHECKPOINT IDS.npy OUT BITS GROUP [ITERATIONS]

IDS.npy holds token windows (sequences, length), the calibration text that ours gets. Writes
OUT.npz: the weights as AutoRound would store them, float32 by Hugging Face name.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import torch
from auto_round import AutoRound
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    """Tune and write."""
    checkpoint, ids, out, bits, group = sys.argv[1:6]
    iterations = int(sys.argv[6]) if len(sys.argv) > 6 else 200
    windows = torch.from_numpy(np.load(ids))
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    data = [{"input_ids": x[None], "attention_mask": torch.ones_like(x)[None]} for x in windows]
    begin = time.monotonic()
    tuner = AutoRound(
        model,
        tokenizer,
        bits=int(bits),
        group_size=int(group),
        sym=True,
        iters=iterations,
        nsamples=len(data),
        seqlen=windows.shape[1],
        batch_size=8,
        dataset=data,
        device_map="cpu",
        amp=False,
    )
    tuned, _ = tuner.quantize()
    weights = {name: tensor.detach().float().numpy() for name, tensor in tuned.state_dict().items()}
    np.savez(out, **weights)
    print(json.dumps({"bits": int(bits), "group": int(group), "seconds": time.monotonic() - begin}))


if __name__ == "__main__":
    main()
