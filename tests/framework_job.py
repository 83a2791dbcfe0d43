"""One step of SGD by a framework, in one process or in several: `job NAME FILE`.

The first process writes the parameters before and after the step, those of the loss
included.
"""

import os
import sys

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

import xmodal_losses as xl

WORLD = int(os.environ.get("WORLD_SIZE", "1"))
ROWS = 64


class TwoEncoders(nn.Module):
    """As in docs/quickstart.md, with `gather`."""

    def __init__(self):
        super().__init__()
        self.encode_rgb, self.encode_ir = nn.Linear(30, 12), nn.Linear(10, 12)
        self.criterion = xl.InfoNCELoss(learn_temperature=True, gather=WORLD > 1)

    def forward(self, rgb, ir):
        return {"loss": self.criterion(self.encode_rgb(rgb), self.encode_ir(ir))}


def accelerated(model, pairs):
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    loader = DataLoader(pairs, batch_size=ROWS // WORLD)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    wrapped, optimizer, batches = accelerator.prepare(model, optimizer, loader)
    for batch in batches:
        optimizer.zero_grad()
        accelerator.backward(wrapped(**batch)["loss"])
        optimizer.step()


def in_lightning(model, pairs):
    import lightning

    class Training(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = model

        def training_step(self, batch):
            return self.model(**batch)["loss"]

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=WORLD,
        strategy="ddp" if WORLD > 1 else "auto",
        logger=False,
        enable_checkpointing=False,
    )
    trainer.fit(Training(), DataLoader(pairs, batch_size=ROWS // WORLD))


def by_trainer(model, pairs):
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(
        "runs",
        per_device_train_batch_size=ROWS // WORLD,
        num_train_epochs=1,
        max_grad_norm=0.0,
        use_cpu=True,
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    both = (optimizer, LambdaLR(optimizer, lambda step: 1.0))
    Trainer(model, arguments, train_dataset=pairs, optimizers=both).train()


JOBS = {
    "accelerate": accelerated,
    "lightning": in_lightning,
    "transformers": by_trainer,
}

if __name__ == "__main__":
    torch.manual_seed(0)
    seen = zip(torch.randn(ROWS, 30), torch.randn(ROWS, 10), strict=True)
    model = TwoEncoders()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    JOBS[sys.argv[1]](model, [{"rgb": rgb, "ir": ir} for rgb, ir in seen])
    if os.environ.get("RANK", "0") == "0":
        after = {name: p.detach() for name, p in model.named_parameters()}
        torch.save((before, after), sys.argv[2])
    # A thread of gloo that lets go of its last work while the interpreter ends asks for
    # a lock that it no longer gets, and CPython before 3.14 aborts the process: one in
    # five of Accelerate's here. There is nothing left to do but to leave.
    os._exit(0)
