"""Trains RecBole's SASRec in an environment of its own, as told by another process; imports nothing of this library.

Reads one line of JSON with the settings from the standard input, says when it is ready, and then, for each further
line, trains so many batches and answers with the seconds that they took: one line of JSON each time.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from typing import Any


class Batches:
    """The first batches of a loader, for RecBole's own loop over an epoch."""

    def __init__(self, loader: Any, number: int) -> None:
        """Takes so many batches of a loader each time it is iterated."""
        self.loader, self.number = loader, number

    def __iter__(self) -> Iterator[Any]:
        """Starts anew, shuffled anew."""
        return itertools.islice(iter(self.loader), self.number)


def build(settings: dict[str, Any], threads: int) -> tuple[Any, Any]:
    """RecBole's trainer and the loader of all training samples."""
    import torch
    from recbole.config import Config
    from recbole.data import create_dataset
    from recbole.data.utils import create_samplers, get_dataloader
    from recbole.utils import get_model, get_trainer, init_seed

    torch.set_num_threads(threads)
    config = Config(model="SASRec", dataset="exposures", config_dict=settings)
    init_seed(config["seed"], config["reproducibility"])
    dataset = create_dataset(config)
    built = dataset.build()
    samplers = create_samplers(config, dataset, built)
    loader = get_dataloader(config, "train")(config, built[0], samplers[0], shuffle=True)
    network = get_model(config["model"])(config, built[0]).to(config["device"])
    return get_trainer(config["MODEL_TYPE"], config["model"])(config, network), loader


def main() -> None:
    """Obeys the lines of the standard input until it ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the libraries print must not come between the answers

    def answer(**values: Any) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    asked = json.loads(sys.stdin.readline())
    logging.disable(logging.WARNING)
    trainer, loader = build(asked["settings"], asked["threads"])
    import recbole
    import torch

    versions = {"recbole": recbole.__version__, "torch": torch.__version__}
    answer(samples=len(loader.dataset), batches=len(loader), versions=versions, device=str(trainer.device))
    for line in sys.stdin:
        number = json.loads(line)["batches"]
        begin = time.perf_counter()
        loss = trainer._train_epoch(Batches(loader, number), 0)
        answer(seconds=time.perf_counter() - begin, loss=float(loss) / number)


if __name__ == "__main__":
    main()
