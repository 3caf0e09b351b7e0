"""Checkpoints: a training that was interrupted anywhere ends with the same bits."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, TrainerCallback, TrainingArguments

from palette.core.budget import Clock
from palette.lm.checkpoints import Checkpoint, Saving
from palette.store import Store

STEPS, BATCH = 10, 4


class Net(nn.Module):
    """Frozen and trained tensors, one of which gets no gradient; random numbers in every step."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.frozen = nn.Linear(3, 8).requires_grad_(False)
        self.trained = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        self.unused = nn.Parameter(torch.ones(2))

    def forward(self, x, labels):
        predicted = self.trained(self.frozen(x)).squeeze(-1)
        return {"loss": (predicted - labels).square().mean()}


class Interrupt(TrainerCallback):
    """Abandons the training at the end of a step, or makes every step take its time."""

    def __init__(self, at=None, pause=0.0):
        self.at, self.pause = at, pause

    def on_step_end(self, args, state, control, **_):
        time.sleep(self.pause)
        control.should_training_stop = state.global_step == self.at


def rows() -> list[dict]:
    data = torch.randn(STEPS * BATCH, 3, generator=torch.Generator().manual_seed(2))
    return [{"x": x, "labels": x.sum()} for x in data]


def train(store: Path, stop=None, seconds=0.0, pause=0.0, now=time.monotonic):
    """From the last checkpoint, in objects that are all new; the net, its optimizer and its log."""
    net = Net()
    optimizer = AdamW([p for p in net.parameters() if p.requires_grad], lr=0.05, weight_decay=0.1)
    checkpoint = Checkpoint(Store(str(store)), "a training's key")
    phase, first, log = checkpoint.load(net, optimizer) or ("train", 0, [])
    clock = Clock(STEPS, None, time.monotonic)
    scheduler = LambdaLR(optimizer, lambda step: clock.rate(first + step))

    class Logged(Trainer):
        def compute_loss(self, *args, **kwargs):
            loss = super().compute_loss(*args, **kwargs)
            log.append(loss.item())
            return loss

    arguments = TrainingArguments(
        output_dir=str(store / "trainer"), max_steps=STEPS - first, seed=7, use_cpu=True,
        per_device_train_batch_size=BATCH, save_strategy="no", report_to="none",
        disable_tqdm=True, train_sampling_strategy="sequential", max_grad_norm=0.0,
        logging_strategy="no",
    )  # fmt: skip
    saving = Saving(checkpoint, phase, net, lambda: log, first, seconds, now)
    Logged(
        model=net, args=arguments, train_dataset=rows()[first * BATCH :],
        optimizers=(optimizer, scheduler), callbacks=[Interrupt(stop, pause), saving],
    ).train()  # fmt: skip
    return net, optimizer, log


def same(one: nn.Module, other: nn.Module) -> bool:
    others = other.state_dict()
    return all(torch.equal(tensor, others[name]) for name, tensor in one.state_dict().items())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train(tmp_path_factory.mktemp("whole"), seconds=1e9)


def found(store: Path):
    net = Net()
    return Checkpoint(Store(str(store)), "a training's key").load(net, AdamW(net.parameters()))


@pytest.mark.parametrize("stops", [(6,), (1, 4), (9,)])
def test_a_training_that_was_abandoned_ends_with_the_same_bits(stops, whole, tmp_path):
    done = 0
    for stop in stops:
        train(tmp_path, stop)
        done += stop
        phase, step, log = found(tmp_path)
        assert (phase, step, len(log)) == ("train", done, done)
    net, optimizer, log = train(tmp_path)
    assert same(net, whole[0]) and log == whole[2]
    assert not same(net, Net())
    for state, other in zip(optimizer.state.values(), whole[1].state.values(), strict=True):
        assert all(torch.equal(state[kind], other[kind]) for kind in other)


@pytest.mark.parametrize("owner, part", [(AdamW, "load_state_dict"), (Saving, "on_step_begin")])
def test_without_moments_or_seeds_of_steps_it_would_end_elsewhere(
    owner, part, tmp_path, monkeypatch
):
    monkeypatch.setattr(owner, part, lambda *_, **__: None)
    train(tmp_path / "cut", 6)
    assert not same(train(tmp_path / "cut")[0], train(tmp_path / "whole")[0])


def test_a_process_that_is_killed_while_it_trains_goes_on(whole, tmp_path):
    here = Path(__file__)
    command = f"import test_checkpoints as t; t.train(t.Path({str(tmp_path)!r}), pause=0.3)"
    process = subprocess.Popen([sys.executable, "-c", command], cwd=here.parent)
    while not (checkpoint := found(tmp_path)) or checkpoint[1] < 3:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 3 <= found(tmp_path)[1] < STEPS
    net, _, log = train(tmp_path)
    assert same(net, whole[0]) and log == whole[2]


def test_checkpoints_are_so_many_seconds_apart(tmp_path, monkeypatch):
    seconds = iter(range(1000))  # every look at the clock takes one; a save looks twice
    saved = []
    monkeypatch.setattr(Checkpoint, "save", lambda self, step, *_: saved.append(step))
    train(tmp_path, seconds=4, now=lambda: float(next(seconds)))
    assert saved == [4, 8]


def stepped(net: Net) -> AdamW:
    optimizer = AdamW([p for p in net.parameters() if p.requires_grad])
    net(torch.ones(2, 3), torch.zeros(2))["loss"].backward()
    optimizer.step()
    return optimizer


def test_a_checkpoint_is_found_by_its_own_training_until_it_is_cleared(tmp_path):
    net, store = Net(), Store(str(tmp_path))
    mine, other = Checkpoint(store, "mine"), Checkpoint(store, "other")
    mine.save(3, "second", net, stepped(net), {"losses": [0.1, None], "spent": 2.5})
    fresh = Net()
    assert other.load(fresh, AdamW(fresh.parameters())) is None
    assert same(fresh, Net())
    assert mine.load(fresh, AdamW(fresh.parameters())) == (
        "second", 3, {"losses": [0.1, None], "spent": 2.5},
    )  # fmt: skip
    assert same(fresh, net)
    mine.clear()
    mine.clear()
    assert mine.load(fresh, AdamW(fresh.parameters())) is None


def test_the_same_state_is_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        net = Net()
        torch.manual_seed(0)
        Checkpoint(Store(str(tmp_path / name)), "x").save(3, "train", net, stepped(net), [1.5])
    one, two = ([p for p in (tmp_path / n).rglob("*") if p.is_file()] for n in ("one", "two"))
    assert one[0].read_bytes() == two[0].read_bytes()


def assert_ignored(checkpoint: Checkpoint, net: nn.Module) -> None:
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    optimizer = AdamW([p for p in net.parameters() if p.requires_grad])
    with pytest.warns(UserWarning, match="a checkpoint is ignored, and its training begins anew"):
        assert checkpoint.load(net, optimizer) is None
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert not optimizer.state


@pytest.mark.parametrize("position", [0, 5, 30, 0.1, 0.5, 0.9, -200, -70, -1])
@pytest.mark.parametrize("damage", ["flipped", "cut", "nothing left"])
def test_a_damaged_checkpoint_is_ignored(damage, position, tmp_path):
    net = Net()
    checkpoint = Checkpoint(Store(str(tmp_path)), "x")
    checkpoint.save(3, "train", net, stepped(net), [1.5] * 20)
    (file,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    content = bytearray(file.read_bytes())
    position = int(position * len(content)) if isinstance(position, float) else position
    content[position] ^= 0x11
    file.write_bytes({"flipped": content, "cut": content[:position]}.get(damage, b""))
    assert_ignored(checkpoint, Net())


def test_a_checkpoint_of_other_tensors_is_ignored(tmp_path):
    net = Net()
    checkpoint = Checkpoint(Store(str(tmp_path)), "x")
    checkpoint.save(3, "train", net, stepped(net), [])
    wider, fewer, coarser = Net(), Net(), Net().to(torch.bfloat16)
    wider.trained[2] = nn.Linear(8, 2)
    fewer.unused.requires_grad_(False)
    more = Net()
    more.extra = nn.Parameter(torch.zeros(1))
    for foreign in (wider, fewer, coarser, more):
        assert_ignored(checkpoint, foreign)
