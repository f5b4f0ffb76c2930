"""Detectors learn, and go on after a kill as if nothing had happened."""

from __future__ import annotations

import csv
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch

from bpr._training_run import Interrupted, SaveClock, load_checkpoint
from bpr.detector.presets import PRESETS
from bpr.detector.schedule import Schedule
from bpr.detector.training import Batch, DetectorTrainer, Events
from tests.detector.conftest import scene, tiny_detector
from tests.systems import needs_signals

SHORT = Schedule(
    steps=6,
    batch_size=2,
    learning_rate=0.005,
    drops=(4,),
    warmup_steps=2,
    clip_norm=10,
    log_every=2,
)


def batch(number: int) -> Batch:
    """The scene and its mirror image, in a brightness that follows from the number."""
    image, target = scene()
    pixels = (image * (150 + 10 * (number % 10))).to(torch.uint8)
    width = image.shape[-1]
    boxes = target["boxes"]
    mirrored = torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)
    other = {**target, "boxes": mirrored, "masks": target["masks"].flip(-1)}
    return [pixels, pixels.flip(-1)], [target, other]


def batches(start: int) -> Iterator[Batch]:
    return map(batch, count(start))


def every_third_step() -> SaveClock:
    """A clock that ticks when it is read: at every third of its readings a checkpoint is due."""
    return SaveClock(3, now=count().__next__)


class Killed(Exception):
    """Stands for a kill between two steps."""


def killed_after(steps: int) -> Iterator[Batch]:
    yield from map(batch, range(steps))
    raise Killed


def trainer(folder: Path, schedule: Schedule = SHORT, **fields: object) -> DetectorTrainer:
    # sizes are drawn, so that a resumed training has more to get right than the batches
    model = tiny_detector(train_sizes=(64, 80, 96), train_samples=64, **fields)
    return DetectorTrainer(model, schedule, folder, {"data": "rectangles"})


def logged(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open() as file:
        return list(csv.DictReader(file))


def losses(folder: Path) -> list[tuple[str, str]]:
    return [(row["step"], row["loss"]) for row in logged(folder)]


@pytest.mark.parametrize(
    "branch",
    [
        "fcn",
        pytest.param("bmask", marks=pytest.mark.slow),
        pytest.param("refinemask", marks=pytest.mark.slow),
    ],
)
def test_a_killed_training_resumes_to_the_same_weights_and_losses(
    tmp_path: Path, branch: str
) -> None:
    fields = {"mask_branch": branch}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    expected = trainer(whole, **fields)
    expected.run(batches(0))

    with pytest.raises(Killed):
        trainer(broken, **fields).run(killed_after(5), clock=every_third_step())
    torch.manual_seed(99)  # another process has drawn other numbers
    resumed = trainer(broken, **fields)
    assert resumed.step == 3, "the last checkpoint before the kill, inside a row of the log"
    resumed.run(batches(resumed.step))

    actual = resumed.network.state_dict()
    for name, value in expected.network.state_dict().items():
        assert torch.equal(value, actual[name]), name
    assert losses(whole) == losses(broken)
    assert len(losses(whole)) == SHORT.steps // SHORT.log_every


@needs_signals
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_finishes_the_step_and_saves_it(tmp_path: Path, number: signal.Signals) -> None:
    def interrupted() -> Iterator[Batch]:
        for position in count():
            if position == 2:
                os.kill(os.getpid(), number)
            yield batch(position)

    before = signal.signal(number, signal.default_int_handler)  # a shell may have it ignored
    training = trainer(tmp_path)
    with pytest.raises(Interrupted, match=r"saved after step 3 to .*checkpoint\.pt"):
        training.run(interrupted())
    assert signal.signal(number, before) is signal.default_int_handler
    found = load_checkpoint(training.checkpoint, training.about, torch.device("cpu"))
    assert found["step"] == 3
    resumed = trainer(tmp_path)
    resumed.run(batches(3))
    whole = trainer(tmp_path / "whole")
    whole.run(batches(0))
    actual = resumed.network.state_dict()
    assert all(torch.equal(value, actual[n]) for n, value in whole.network.state_dict().items())
    assert losses(tmp_path) == losses(tmp_path / "whole")


def test_scores_are_logged_and_training_resumes_its_mode(tmp_path: Path) -> None:
    training, seen = trainer(tmp_path), []

    def validate(step: int) -> dict[str, float]:
        training.network.eval()
        seen.append(step)
        return {"AP": step / 10}

    training.run(batches(0), Events(validate=validate, validate_every=4))
    assert seen == [4, 6]
    assert training.network.training
    assert (tmp_path / "validation.csv").read_text().splitlines() == ["step,AP", "4,0.4", "6,0.6"]


def test_a_finished_training_is_not_trained_again_and_another_is_refused(tmp_path: Path) -> None:
    trainer(tmp_path).run(batches(0))
    again = trainer(tmp_path)
    assert again.step == SHORT.steps
    again.run(iter(()))
    assert len(logged(tmp_path)) == SHORT.steps // SHORT.log_every
    with pytest.raises(ValueError, match=r"another training \(learning_rate was 0\.005, is 0\.1\)"):
        trainer(tmp_path, replace(SHORT, learning_rate=0.1))


def test_a_loss_that_is_no_number_ends_the_training_before_it_is_saved(tmp_path: Path) -> None:
    schedule = replace(SHORT, learning_rate=1e9, warmup_steps=0, clip_norm=float("inf"))
    with pytest.raises(ValueError, match=r"step \d: expected a finite loss, got (nan|inf)"):
        trainer(tmp_path, schedule).run(batches(0))
    assert not (tmp_path / "checkpoint.pt").exists()


def test_the_last_steps_are_looked_at_too_where_they_fill_no_row_of_the_log(tmp_path: Path) -> None:
    schedule = replace(SHORT, learning_rate=1e9, warmup_steps=0, clip_norm=float("inf"))
    schedule = replace(schedule, steps=4, drops=(), log_every=20)
    with pytest.raises(ValueError, match="step 4: expected a finite loss"):
        trainer(tmp_path, schedule).run(batches(0))
    assert not (tmp_path / "checkpoint.pt").exists()


def test_training_in_bfloat16_learns_too(tmp_path: Path) -> None:
    model = tiny_detector(train_samples=64)
    schedule = replace(SHORT, steps=25, drops=(), log_every=5)
    DetectorTrainer(model, schedule, tmp_path, {}, bfloat16=True).run(batches(0))
    rows = logged(tmp_path)
    assert float(rows[-1]["loss"]) < 0.8 * float(rows[0]["loss"])
    assert all(value.dtype == torch.float32 for value in model.state_dict().values())


def test_what_is_frozen_stays_and_norms_do_not_decay(tmp_path: Path) -> None:
    model = tiny_detector(frozen_stages=2, norm="frozen", head_norm="group")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    frozen = [name for name, value in model.named_parameters() if not value.requires_grad]
    assert any(name.startswith("backbone.body.layer1") for name in frozen)
    training = DetectorTrainer(model, SHORT, tmp_path, {})
    decaying, norms = training.optimizer.param_groups
    assert decaying["weight_decay"] == 1e-4
    assert norms["weight_decay"] == 0
    assert {value.ndim for value in norms["params"]} == {1}
    training.run(batches(0))
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    assert not torch.equal(
        before["backbone.fpn.layer_blocks.0.0.weight"],
        after["backbone.fpn.layer_blocks.0.0.weight"],
    )


def test_the_rate_warms_up_and_falls_by_tens() -> None:
    schedule = PRESETS["mask_rcnn_R_50_FPN_cityscapes"].schedule
    rates = [schedule.learning_rate_at(step) for step in (0, 500, 1000, 17_999, 18_000, 23_999)]
    assert rates == pytest.approx([1e-5, 0.005005, 0.01, 0.01, 0.001, 0.001])


def test_smaller_batches_train_as_long_on_as_many_images() -> None:
    full = PRESETS["mask_rcnn_R_50_FPN_1x"].schedule
    quarter = full.for_batch_size(4)
    assert (quarter.steps, quarter.drops) == (360_000, (240_000, 320_000))
    assert (quarter.learning_rate, quarter.warmup_steps) == (0.005, 4000)
    short = full.for_steps(900)
    assert (short.drops, short.warmup_steps) == ((600, 800), 900)


@pytest.mark.parametrize("wrong", ["steps", "batch_size"])
def test_nothing_is_no_training(wrong: str) -> None:
    schedule = PRESETS["small"].schedule
    change = schedule.for_steps if wrong == "steps" else schedule.for_batch_size
    with pytest.raises(ValueError, match=f"{wrong}: expected an int > 0, got 0"):
        change(0)
