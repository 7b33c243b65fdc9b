import copy
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from jetstudy import diffusion, training
from jetstudy.networks import OneHop
from jetstudy.training import Recipe, seeded, train

RECIPE = Recipe(steps=40, batch=8, rate=1e-2, every=10)


def network(seed=0, width=8):
    """A regression network with dropout, so that training draws from torch's stream."""
    with seeded(torch.Generator().manual_seed(seed)):
        return nn.Sequential(nn.Linear(2, width), nn.SiLU(), nn.Dropout(0.1), nn.Linear(width, 1))


def regression(seed, n):
    x = torch.randn(n, 2, generator=torch.Generator().manual_seed(seed))
    return x, torch.sin(x[:, :1]) - x[:, 1:]


# 50 jets in batches of 8: the order of the data is drawn anew in the middle of a validation period.
DATA, VALIDATION = regression(1, 50), regression(2, 30)


def noisy_loss(model, batch, generator):
    """Squared error of noisy inputs, so that training draws from the generator too."""
    x, y = batch
    return F.mse_loss(model(x + 0.1 * torch.randn(x.shape, generator=generator)), y)


def run(checkpoint, model=None, loss=noisy_loss, recipe=RECIPE, seed=3, **arguments):
    model = model or network()
    arguments = {"data": DATA, "validation": VALIDATION, "progress": lambda line: None} | arguments
    generator = torch.Generator().manual_seed(seed)
    table = train(model, loss, recipe=recipe, generator=generator, checkpoint=checkpoint, **arguments)
    return model, table


def assert_same_weights(model, other):
    for (name, p), (other_name, q) in zip(model.state_dict().items(), other.state_dict().items(), strict=True):
        assert name == other_name
        assert torch.equal(p, q), name


class Interrupted(Exception):
    pass


def interrupted_after(steps):
    """The loss of a training that stops in the middle of a step."""
    taken = 0

    def loss(model, batch, generator):
        nonlocal taken
        taken += model.training
        if taken > steps:
            raise Interrupted
        return noisy_loss(model, batch, generator)

    return loss


# Learning


def test_training_lowers_the_training_and_the_validation_loss(tmp_path):
    _, table = run(tmp_path / "checkpoint", recipe=Recipe(300, 25, 2e-2, 50, ema=0.9))
    assert list(table.columns) == ["step", "train", "validation", "rate"]
    assert list(table["step"]) == [50, 100, 150, 200, 250, 300]
    assert table["train"].iloc[-1] < 0.3 * table["train"].iloc[0]
    assert table["validation"].iloc[-1] < 0.2


def test_a_one_hop_network_learns_a_diffusion(tmp_path):
    # All data at one point, (1, 1, 1): an exact velocity has no loss, one of zero has pi^2 / 4.
    def loss(model, batch, generator):
        return diffusion.loss(model, batch, generator, diffusion.Design())

    with seeded(torch.Generator().manual_seed(0)):
        model = OneHop(width=16, heads=2, layers=1, reads=1, n_max=3)
    mask = torch.arange(3) < torch.tensor([3, 2] * 64)[:, None]
    data = torch.ones(128, 3, 3) * mask[..., None], mask
    _, table = run(tmp_path / "checkpoint", model, loss, Recipe(150, 64, 1e-2, 50, 0.9), data=data, validation=data)
    assert table["validation"].iloc[-1] < 0.2 * math.pi**2 / 4


def test_a_step_is_adamw_on_the_clipped_gradient_at_the_recipes_rate(tmp_path):
    recipe, losses = Recipe(steps=5, batch=50, rate=0.1, every=1, ema=0.0), []

    def loss(model, batch, generator):
        value = 100 * F.mse_loss(model(batch[0]), batch[1])
        if model.training:
            losses.append(value.item())
        return value

    with seeded(torch.Generator().manual_seed(0)):
        model = nn.Linear(2, 1)
    expected = copy.deepcopy(model)
    run(tmp_path / "checkpoint", model, loss, recipe, validation=DATA)
    optimiser = torch.optim.AdamW(expected.parameters(), weight_decay=1e-4)
    for step in range(5):
        optimiser.param_groups[0]["lr"] = recipe.learning_rate(step)
        optimiser.zero_grad()
        value = 100 * F.mse_loss(expected(DATA[0]), DATA[1])
        assert losses[step] == pytest.approx(value.item(), rel=1e-4)
        value.backward()
        nn.utils.clip_grad_norm_(expected.parameters(), 1.0)
        optimiser.step()


def test_every_jet_is_seen_once_before_any_is_seen_again(tmp_path):
    seen = []

    def loss(model, batch, generator):
        if model.training:
            seen.extend(batch[0][:, 0].tolist())
        return noisy_loss(model, batch, generator)

    run(tmp_path / "checkpoint", loss=loss, recipe=Recipe(10, 10, 1e-3, 5))
    first, second = seen[:50], seen[50:]
    assert sorted(first) == sorted(second) == sorted(DATA[0][:, 0].tolist())
    assert first != second


def test_a_batch_larger_than_the_sample_is_the_whole_sample(tmp_path):
    sizes = []

    def loss(model, batch, generator):
        sizes.append(len(batch[0]))
        return noisy_loss(model, batch, generator)

    run(tmp_path / "checkpoint", loss=loss, recipe=Recipe(2, 1000, 1e-3, 2), validation=regression(0, 7))
    assert sizes == [50, 50, 7]


# Averages and validation


@pytest.mark.parametrize("stop", [None, 50])
def test_the_best_validated_weights_are_kept_even_if_later_ones_are_worse(tmp_path, stop):
    # The validation wants a third of what the training learns, which helps it only at the start.
    third, steps = (DATA[0], DATA[1] / 3), 0

    def loss(model, batch, generator):
        nonlocal steps
        steps += model.training
        if steps == stop:
            raise Interrupted
        return F.mse_loss(model(batch[0]), batch[1])

    arguments = {"recipe": Recipe(steps=100, batch=50, rate=2e-2, every=2, ema=0.5), "validation": third}
    if stop:
        with pytest.raises(Interrupted):
            run(tmp_path / "checkpoint", loss=loss, **arguments)
    model, table = run(tmp_path / "checkpoint", loss=loss, **arguments)
    best = table["validation"].idxmin()
    assert 0 < best < 20
    assert table["validation"].iloc[-1] > 1.5 * table["validation"].min()
    assert not model.training
    assert loss(model, third, None).item() == pytest.approx(table["validation"].min(), rel=1e-6)


def test_what_is_validated_is_the_exponential_average_of_the_weights(tmp_path):
    def weights(ema):
        validated = []

        def loss(model, batch, generator):
            if not model.training:
                validated.append([p.detach().clone() for p in model.parameters()])
            return noisy_loss(model, batch, generator)

        run(tmp_path / f"checkpoint-{ema}", loss=loss, recipe=Recipe(20, 8, 1e-2, 1, ema))
        return validated

    raw, averaged = weights(0.0), weights(0.6)  # averaging does not change the path of the training
    average = [p.detach() for p in network().parameters()]
    for step, (now, found) in enumerate(zip(raw, averaged, strict=True), start=1):
        decay = min(0.6, (1 + step) / (10 + step))
        average = [decay * a + (1 - decay) * p for a, p in zip(average, now, strict=True)]
        for a, b in zip(average, found, strict=True):
            torch.testing.assert_close(b, a)


def test_validation_is_without_dropout_on_the_same_noise_every_time_and_weighs_jets_equally(tmp_path):
    modes, draws = set(), []

    def loss(model, batch, generator):
        if not model.training:
            modes.update(module.training for module in model.modules())
            draws.append((len(batch[0]), float(torch.rand((), generator=generator))))
            return batch[1].mean()
        return noisy_loss(model, batch, generator)

    x, y = regression(4, 1500)
    _, table = run(tmp_path / "checkpoint", loss=loss, validation=(x, y))
    assert modes == {False}
    assert draws == draws[:2] * 4
    assert [size for size, _ in draws[:2]] == [1024, 476]
    np.testing.assert_allclose(table["validation"], float(y.double().mean()), atol=1e-6)


# Resuming


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return run(tmp_path_factory.mktemp("uninterrupted") / "checkpoint")


@pytest.mark.parametrize("steps", [0, 4, 10, 25, 39])
def test_an_interrupted_training_goes_on_to_the_same_weights_and_table(tmp_path, uninterrupted, steps):
    checkpoint, lines = tmp_path / "checkpoint", []
    with pytest.raises(Interrupted):
        run(checkpoint, loss=interrupted_after(steps))
    # Once there is a checkpoint, all of it comes from there, not from the new model.
    model, table = run(checkpoint, network(seed=0 if steps < 10 else 99), progress=lines.append)
    resumed = [line for line in lines if line.startswith("resuming")]
    assert resumed == ([f"resuming at step {10 * (steps // 10)} of 40"] if steps >= 10 else [])
    assert_same_weights(model, uninterrupted[0])
    pd.testing.assert_frame_equal(table, uninterrupted[1], check_exact=True)


def test_a_training_interrupted_twice_by_its_progress_goes_on_to_the_same_weights(tmp_path, monkeypatch, uninterrupted):
    monkeypatch.setattr(training, "PROGRESS", -1.0)  # a line every step
    for stop in ("step 17 of 40", "step 23 of 40"):

        def progress(line, stop=stop):
            if line.startswith(stop):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "checkpoint", progress=progress)
    model, table = run(tmp_path / "checkpoint")
    assert_same_weights(model, uninterrupted[0])
    pd.testing.assert_frame_equal(table, uninterrupted[1], check_exact=True)


def test_a_finished_training_is_not_repeated(tmp_path, uninterrupted):
    run(tmp_path / "checkpoint")
    model, table = run(tmp_path / "checkpoint", network(seed=99), loss=interrupted_after(0))
    assert_same_weights(model, uninterrupted[0])
    pd.testing.assert_frame_equal(table, uninterrupted[1], check_exact=True)


def normalised_network(seed=0):
    """One with batch normalisation, whose running statistics a training changes without a gradient."""
    with seeded(torch.Generator().manual_seed(seed)):
        return nn.Sequential(
            *(nn.Linear(2, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.1)),
            *(nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 1)),
        )


@pytest.mark.parametrize("schedule", training.SCHEDULES)
@pytest.mark.parametrize("optimiser", training.OPTIMISERS)
def test_every_optimiser_and_schedule_resumes_to_the_same_weights_and_statistics(tmp_path, optimiser, schedule):
    recipe = replace(RECIPE, steps=23, every=5, optimiser=optimiser, schedule=schedule, weight_decay=0.1)
    whole, table = run(tmp_path / "whole", normalised_network(), recipe=recipe)
    with pytest.raises(Interrupted):
        run(tmp_path / "checkpoint", normalised_network(), interrupted_after(17), recipe)
    model, resumed = run(tmp_path / "checkpoint", normalised_network(seed=99), recipe=recipe)
    assert_same_weights(model, whole)
    assert whole[1].num_batches_tracked > 0
    pd.testing.assert_frame_equal(resumed, table, check_exact=True)


def worse_after(validations, stop=None):
    """A loss whose validation gets better so often and then worse."""
    taken = steps = 0

    def loss(model, batch, generator):
        nonlocal taken, steps
        if model.training:
            steps += 1
            if steps == stop:
                raise Interrupted
            return noisy_loss(model, batch, generator)
        taken += 1
        return torch.tensor(abs(taken - validations) + 1.0)

    return loss


def test_a_training_stops_after_as_many_validations_without_a_better_one_as_its_patience(tmp_path):
    lines, recipe = [], replace(RECIPE, steps=100, every=5, patience=3)
    _, table = run(tmp_path / "checkpoint", loss=worse_after(4), recipe=recipe, progress=lines.append)
    assert list(table["step"]) == [5, 10, 15, 20, 25, 30, 35]
    assert lines[-1].startswith("35 steps done of 100, no better for 3 validations, loss ")
    # Neither is a training that had stopped early repeated, nor does it go on.
    _, again = run(tmp_path / "checkpoint", loss=interrupted_after(0), recipe=recipe)
    pd.testing.assert_frame_equal(again, table, check_exact=True)


def test_a_training_that_gets_better_all_the_time_does_not_stop_early(tmp_path):
    _, table = run(
        tmp_path / "checkpoint", loss=worse_after(99), recipe=replace(RECIPE, steps=100, every=5, patience=1)
    )
    assert table["step"].iloc[-1] == 100


def test_a_training_interrupted_while_it_waits_stops_early_at_the_same_step(tmp_path):
    recipe = replace(RECIPE, steps=100, every=5, patience=3)
    whole, table = run(tmp_path / "whole", loss=worse_after(4), recipe=recipe)
    with pytest.raises(Interrupted):
        run(tmp_path / "checkpoint", loss=worse_after(4, stop=28), recipe=recipe)
    # The resumed loss starts to count at the sixth validation.
    model, resumed = run(tmp_path / "checkpoint", loss=worse_after(4 - 5), recipe=recipe)
    assert_same_weights(model, whole)
    pd.testing.assert_frame_equal(resumed, table, check_exact=True)


def test_the_seconds_of_a_training_are_kept_when_it_is_asked_for_again(tmp_path):
    _, table = run(tmp_path / "checkpoint")
    _, again = run(tmp_path / "checkpoint", loss=interrupted_after(0))
    assert again.attrs["seconds"] == table.attrs["seconds"] > 0


def test_another_seed_trains_to_other_weights(tmp_path, uninterrupted):
    model, _ = run(tmp_path / "checkpoint", seed=4)
    assert not torch.equal(model[0].weight, uninterrupted[0][0].weight)


def test_a_checkpoint_is_alone_in_its_folder(tmp_path):
    run(tmp_path / "checkpoint")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_a_truncated_checkpoint_is_refused_by_its_path(tmp_path, kept):
    checkpoint = tmp_path / "checkpoint"
    run(checkpoint)
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ValueError, match=f"{checkpoint}: not a complete checkpoint"):
        run(checkpoint)


def test_a_file_of_weights_is_refused_as_a_checkpoint(tmp_path):
    save_file(network().state_dict(), tmp_path / "weights")
    with pytest.raises(ValueError, match=f"{tmp_path / 'weights'}: not a complete checkpoint"):
        run(tmp_path / "weights")


@pytest.mark.parametrize(
    ("key", "other"),
    [
        ("recipe", {"recipe": replace(RECIPE, rate=2e-2)}),
        ("recipe", {"recipe": replace(RECIPE, steps=50)}),
        ("recipe", {"recipe": replace(RECIPE, optimiser="ranger")}),
        ("recipe", {"recipe": replace(RECIPE, patience=3)}),
        ("jets", {"data": regression(1, 51)}),
        ("noise_seed", {"seed": 4}),
        ("parameters", {"model": network(width=9)}),
    ],
)
def test_the_checkpoint_of_another_training_is_refused_by_what_differs(tmp_path, key, other):
    run(tmp_path / "checkpoint")
    with pytest.raises(ValueError, match=f"checkpoint: checkpoint of another training: {key} is"):
        run(tmp_path / "checkpoint", **other)


# Failure and randomness


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_training_loss_that_is_not_finite_stops_the_training(tmp_path, value):
    taken = []

    def loss(model, batch, generator):
        taken.append(model.training)
        return noisy_loss(model, batch, generator) * (value if sum(taken) > 13 else 1.0)

    with pytest.raises(FloatingPointError, match=f"training loss is {value} at step 13"):
        run(tmp_path / "checkpoint", loss=loss)


def test_a_validation_loss_that_is_not_finite_stops_the_training_before_its_checkpoint(tmp_path):
    def loss(model, batch, generator):
        return noisy_loss(model, batch, generator) * (1.0 if model.training else float("nan"))

    with pytest.raises(FloatingPointError, match="validation loss is nan at step 10"):
        run(tmp_path / "checkpoint", loss=loss)
    assert not list(tmp_path.iterdir())


def test_training_leaves_torchs_global_stream_alone(tmp_path):
    model = network()
    before = torch.get_rng_state()
    run(tmp_path / "first", model)
    assert torch.equal(torch.get_rng_state(), before)


def test_training_does_not_depend_on_torchs_global_stream(tmp_path, uninterrupted):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(12345)
        model, _ = run(tmp_path / "checkpoint")
    assert_same_weights(model, uninterrupted[0])


def test_layers_made_under_a_seed_are_the_same_and_the_next_ones_are_others():
    def three(seed):
        generator = torch.Generator().manual_seed(seed)
        layers = []
        for _ in range(3):
            with seeded(generator):
                layers.append(nn.Linear(4, 4).weight)
        return torch.stack(layers)

    first = three(1)
    assert torch.equal(three(1), first)
    assert first.unique().numel() == first.numel()
    assert not torch.isin(three(2), first).any()


def test_the_global_stream_is_restored_even_after_an_error():
    before = torch.get_rng_state()
    with pytest.raises(Interrupted), seeded(torch.Generator()):
        torch.rand(3)
        raise Interrupted
    assert torch.equal(torch.get_rng_state(), before)


def test_progress_names_the_step_the_losses_and_the_time_left(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "PROGRESS", -1.0)
    lines = []
    run(tmp_path / "checkpoint", progress=lines.append)
    assert lines[0].startswith("step 1 of 40, not validated yet, epoch 0.2, about")
    assert lines[20].startswith("step 21 of 40, loss ")
    assert lines[-1].startswith("40 steps done, loss ")


def test_there_is_a_line_of_progress_at_every_validation(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "PAUSE", 60.0)
    lines = []
    run(tmp_path / "checkpoint", progress=lines.append)
    assert [line.split(",")[0] for line in lines] == [*(f"step {k} of 40" for k in (10, 20, 30, 40)), "40 steps done"]


def test_there_is_a_line_of_progress_an_epoch_but_not_more_than_one_a_second(tmp_path, monkeypatch):
    recipe = replace(RECIPE, every=40)
    for pause, expected in ((-1.0, [6, 12, 18, 24, 30, 36, 40]), (60.0, [40])):
        lines = []
        monkeypatch.setattr(training, "PAUSE", pause)
        run(tmp_path / f"checkpoint {pause}", recipe=recipe, progress=lines.append)
        assert [line.split(",")[0] for line in lines[:-1]] == [f"step {k} of 40" for k in expected]


def test_the_device_is_the_one_asked_for_or_cuda_where_there_is_one(monkeypatch):
    for available, expected in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        assert training.on_device("auto") == expected
    assert [training.on_device(name) for name in ("cpu", "cuda")] == ["cpu", "cuda"]
    with pytest.raises(ValueError, match="device 'gpu'"):
        training.on_device("gpu")


# The learning rate


@hypothesis_settings(deadline=None, database=None)
@given(st.integers(1, 3000))
def test_the_learning_rate_rises_for_a_twentieth_of_the_steps_and_falls_to_zero(steps):
    recipe = Recipe(steps=steps, batch=1, rate=0.1, every=1)
    rates = np.array([recipe.learning_rate(step) for step in range(steps + 1)])
    top = max(1, steps // 20) - 1
    assert (rates[:-1] > 0).all()
    assert rates.max() <= 0.1
    assert (np.diff(rates[: top + 1]) > 0).all()
    assert (np.diff(rates[top:]) < 0).all()
    assert rates[-1] == pytest.approx(0, abs=1e-15)
    assert rates[top] > 0.99 * 0.1


def test_a_flat_learning_rate_falls_to_a_hundredth_over_the_last_thirty_percent():
    recipe = Recipe(steps=1000, batch=1, rate=0.1, every=1, schedule="flat_exponential")
    assert {recipe.learning_rate(step) for step in range(701)} == {0.1}
    assert recipe.learning_rate(850) == pytest.approx(0.01)
    assert recipe.learning_rate(1000) == pytest.approx(0.001)


def test_warm_restarts_are_those_of_the_authors_epochs():
    recipe = Recipe(steps=3500, batch=8, rate=0.1, every=1, schedule="warm_restarts")
    epochs = {4.99: 1, 5: 1, 7: 0.5, 9: 1, 13: 0.5, 17: 1, 25: 0.5, 31: 0.5 * (1 + math.cos(14 * math.pi / 16))}
    for epoch, share in epochs.items():
        assert recipe.learning_rate(round(100 * epoch)) == pytest.approx(0.1 * share)
    assert recipe.learning_rate(3300) == pytest.approx(recipe.learning_rate(3200) / 2)
    assert recipe.learning_rate(3499) == pytest.approx(recipe.learning_rate(3100) * 0.5**3.99)


@pytest.mark.parametrize("steps", [1, 2, 10, 400])
def test_warm_restarts_stay_below_the_largest_rate_in_trainings_of_any_length(steps):
    recipe = Recipe(steps=steps, batch=8, rate=0.1, every=1, schedule="warm_restarts")
    rates = [recipe.learning_rate(step) for step in range(steps)]
    assert 0 <= min(rates) and 0 < rates[0] <= max(rates) == pytest.approx(0.1, rel=0.02 if steps > 1 else 1)


def test_a_constant_learning_rate_is_constant():
    recipe = Recipe(steps=10, batch=1, rate=0.1, every=1, schedule="constant")
    assert {recipe.learning_rate(step) for step in range(11)} == {0.1}


def test_ranger_goes_halfway_back_to_slow_weights_every_six_steps():
    fast, ranger = (nn.Linear(2, 1) for _ in range(2))
    ranger.load_state_dict(fast.state_dict())
    slow = [p.detach().clone() for p in fast.parameters()]
    settings = {"lr": 0.1, "weight_decay": 0.01}
    ours = training.Ranger(ranger.parameters(), **settings)
    plain = torch.optim.RAdam(fast.parameters(), betas=(0.95, 0.999), eps=1e-5, decoupled_weight_decay=True, **settings)
    for step in range(1, 14):
        for model, optimiser in ((fast, plain), (ranger, ours)):
            optimiser.zero_grad()
            F.mse_loss(model(DATA[0]), DATA[1]).backward()
            optimiser.step()
        if step % 6 == 0:
            with torch.no_grad():
                for p, s in zip(fast.parameters(), slow, strict=True):
                    s.copy_((s + p) / 2)
                    p.copy_(s)
        for p, q in zip(ranger.parameters(), fast.parameters(), strict=True):
            torch.testing.assert_close(p, q)


def test_muon_moves_matrices_by_equal_singular_values_and_all_else_as_adamw():
    with seeded(torch.Generator().manual_seed(0)):
        model = nn.Sequential(nn.Linear(2, 16), nn.SiLU(), nn.Linear(16, 16), nn.SiLU(), nn.Linear(16, 1))
    other, before = copy.deepcopy(model), copy.deepcopy(model)
    settings = {"lr": 0.01, "weight_decay": 0.0}
    for network, kind in ((model, training.Muon), (other, torch.optim.AdamW)):
        F.mse_loss(network(DATA[0]), DATA[1]).backward()
        kind(network.parameters(), **settings).step()
    for i in (0, 4):
        torch.testing.assert_close(model[i].weight, other[i].weight)
        torch.testing.assert_close(model[i].bias, other[i].bias)
    torch.testing.assert_close(model[2].bias, other[2].bias)
    size = torch.linalg.svdvals((model[2].weight - before[2].weight).double()) / (0.01 * 0.2 * 4)
    # A gradient whose singular values fall by four decades: five iterations make the large ones equal within a factor.
    assert (size < 1.5).all() and (size > 0.5).sum() == 5


def test_muon_steps_as_pytorchs_own_does_in_its_coarser_numbers():
    generator = torch.Generator().manual_seed(1)
    shapes = [(12, 20), (20, 12), (20, 12), (9, 9)]
    ours = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in (*shapes, (12,))]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours[:-1]]
    settings = {"lr": 0.01, "weight_decay": 0.1}
    optimisers = training.Muon(ours, **settings), torch.optim.Muon(theirs, **settings, adjust_lr_fn="match_rms_adamw")
    begun = [p.detach().clone() for p in theirs]
    for _ in range(3):
        for p, q in zip(ours, theirs, strict=False):
            p.grad = torch.randn(p.shape, generator=generator)
            q.grad = p.grad.clone()
        ours[-1].grad = torch.ones(12)
        for optimiser in optimisers:
            optimiser.step()
    for p, q, start in zip(ours, theirs, begun, strict=False):
        apart, moved = (p - q).norm(), (q - start).norm()
        assert apart < 0.02 * moved


@pytest.mark.parametrize("shape", [(2, 5, 9), (2, 9, 5), (1, 6, 6)])
def test_orthogonalised_matrices_keep_their_singular_vectors(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    values = values / values.norm(dim=1, keepdim=True)
    for _ in range(5):
        values = 3.4445 * values - 4.775 * values**3 + 2.0315 * values**5
    found = training.orthogonalised(matrices)
    torch.testing.assert_close(found, left @ torch.diag_embed(values) @ right)
    assert found.dtype == torch.float64


def test_muon_leaves_alone_a_matrix_without_a_gradient():
    used, unused, bias = (nn.Parameter(torch.ones(shape)) for shape in ((9, 9), (9, 9), (9,)))
    used.grad, bias.grad = torch.eye(9), torch.ones(9)
    training.Muon([used, unused, bias], lr=0.1, weight_decay=0.1).step()
    assert (unused == 1).all() and (used != 1).any() and (bias != 1).all()


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("optimiser", "optimiser 'sgd': expected one of adamw, ranger, muon"),
        ("schedule", "schedule 'sgd': expected one of cos"),
    ],
)
def test_an_unknown_optimiser_or_schedule_is_refused_by_name(key, message):
    with pytest.raises(ValueError, match=message):
        replace(RECIPE, **{key: "sgd"})


@pytest.mark.parametrize("key", ["batch", "every"])
def test_a_batch_of_nothing_is_refused(key):
    with pytest.raises(ValueError, match=f"{key} is 0: expected 1 or more"):
        replace(RECIPE, **{key: 0})


def test_the_learning_rate_is_half_its_peak_half_way():
    assert Recipe(steps=1000, batch=1, rate=0.1, every=1).learning_rate(500) == pytest.approx(0.05)
