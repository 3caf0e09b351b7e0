"""Training converges to π*_w, in a world where π*_w, f* and J are exact sums."""

import json

import numpy as np
import pytest
import torch

from palette.errors import PaletteError
from palette.lm.training import Task, adapted, reinforce, supervised, train
from palette.params import Adapters
from tests.worlds import LONGEST, rewards, world

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # between PEFT and transformers

W = np.array([0.5, 0.5])
BETA = 0.1


@pytest.fixture(scope="module")
def tiny():
    torch.set_num_threads(1)
    return world()


def task(tiny, beta=BETA, samples=20_000):
    rollouts = tiny.rollouts(samples, seed=1)
    return Task(
        prompts=tiny.prompts,
        questions=tiny.questions,
        answers=[[tiny.answers[answer] for answer in row] for row in rollouts],
        rewards=(W @ tiny.rewards)[rollouts],
        reward=lambda questions, responses: W @ rewards(responses),
        beta=beta,
        max_new_tokens=LONGEST,
    )


def settings(**changes):
    return Adapters(
        **{"rank": 8, "steps": 0, "learning_rate": 1e-2, "rloo_learning_rate": 1e-2, **changes}
    )


def share_and_kl(tiny, policy):
    """Share of the possible improvement at W and BETA, and mean KL(π ‖ π*_w) over prompts."""
    exact = tiny.logprobs(policy.model)
    ideal, _ = tiny.ideal(W, BETA)
    kl = (np.exp(exact) * (exact - ideal)).sum(1).mean()
    return tiny.share(exact, W, BETA), kl


def test_the_world_is_exact(tiny):
    """f* bounds J, is reached by π*_w, and falls short elsewhere by β KL(π ‖ π*_w)."""
    assert np.allclose(np.exp(tiny.base).sum(1), 1)
    ideal, best = tiny.ideal(W, BETA)
    assert tiny.objective(ideal, W, BETA) == pytest.approx(best)
    kl = (np.exp(tiny.base) * (tiny.base - ideal)).sum(1).mean()
    assert best - tiny.objective(tiny.base, W, BETA) == pytest.approx(BETA * kl)
    assert kl > 0.5  # the base is far from ideal, or the tests below would show nothing


def test_supervised_converges_to_the_ideal_policy(tiny):
    policy = adapted(tiny.lm, settings())
    log = supervised(policy, task(tiny), settings(steps=200))
    share, kl = share_and_kl(tiny, policy)
    assert share > 0.95
    assert kl < 0.06
    assert [(phase, step) for phase, step, _ in log] == [("supervised", n + 1) for n in range(200)]
    assert log[-1][2] < log[0][2]


def test_reinforce_alone_converges_to_the_ideal_policy(tiny):
    policy = adapted(tiny.lm, settings())
    log = reinforce(policy, task(tiny), settings(rloo_steps=150))
    share, kl = share_and_kl(tiny, policy)
    assert share > 0.95
    assert kl < 0.06
    assert {phase for phase, _, _ in log} == {"rloo"}
    assert np.mean([loss for *_, loss in log[-10:]]) < np.mean([loss for *_, loss in log[:10]])


def test_reinforce_after_supervised_prices_the_kl_to_the_base(tiny):
    """Priced to the supervised adapter, TRL's default, the optimum would be tilted twice."""
    policy = adapted(tiny.lm, settings())
    supervised(policy, task(tiny), settings(steps=60))
    before, _ = share_and_kl(tiny, policy)
    reinforce(policy, task(tiny), settings(rloo_steps=80, rloo_learning_rate=5e-3))
    after, kl = share_and_kl(tiny, policy)
    assert after > before
    assert after > 0.95
    assert kl < 0.06


@pytest.mark.parametrize("phase", ["steps", "rloo_steps"])
@pytest.mark.parametrize("wrong", [0.03, 0.4])
def test_another_beta_has_visibly_another_optimum(tiny, phase, wrong):
    """The control: with the wrong β the same training does not pass for convergence."""
    policy = adapted(tiny.lm, settings())
    part = settings(**{phase: 60})
    run = supervised if phase == "steps" else reinforce
    run(policy, task(tiny, beta=wrong), part)
    share, kl = share_and_kl(tiny, policy)
    assert share < 0.8
    assert kl > 0.2


def alike(tiny, chosen):
    """A task of one prompt and a few rollouts, all equally good."""
    return Task(
        tiny.prompts[1:], tiny.questions[1:], [chosen], np.full((1, len(chosen)), 0.5),
        lambda questions, responses: W @ rewards(responses), BETA, LONGEST,
    )  # fmt: skip


def nll(tiny, chosen):
    return [-tiny.base[1][tiny.answers.index(answer)] for answer in chosen]


def test_the_loss_covers_answer_tokens_as_they_are(tiny):
    """No prompt token, no eos after a truncated answer, in whatever part of the batch it lies."""
    chosen = [[1], [4, 1], [4, 6, 1], [4, 6, 7]]
    (_, _, loss), *_ = supervised(
        adapted(tiny.lm, settings()), alike(tiny, chosen), settings(steps=1, batch=16)
    )
    assert loss == pytest.approx(sum(nll(tiny, chosen)) / sum(map(len, chosen)), rel=1e-5)


def test_every_token_weighs_the_same_in_every_batch(tiny):
    """Losses of steps are sums over one constant, not means over the tokens of their batch."""
    chosen = [[1], [4, 6, 7]]
    log = supervised(
        adapted(tiny.lm, settings()),
        alike(tiny, chosen),
        settings(steps=2, batch=1, learning_rate=1e-12),
    )
    expected = sorted(value / 2 for value in nll(tiny, chosen))
    assert sorted(loss for *_, loss in log) == pytest.approx(expected, rel=1e-5)


def test_the_base_is_left_as_it_was_and_training_repeats_bit_for_bit(tiny):
    model = tiny.lm.model
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config, generation = model.config.to_dict(), model.generation_config.to_dict()
    modules = [(name, type(module)) for name, module in model.named_modules()]
    part = settings(steps=3, rloo_steps=2, batch=16)

    done = []
    files, log = train(tiny.lm, task(tiny, samples=200), part, done.append)
    assert sum(done) == 5
    assert [phase for phase, *_ in log] == ["supervised"] * 3 + ["rloo"] * 2

    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
    assert [(name, type(module)) for name, module in model.named_modules()] == modules
    assert model.config.to_dict() == config
    assert model.generation_config.to_dict() == generation
    assert "forward" not in vars(model)
    assert not model.training
    assert not any(weight.requires_grad for weight in model.parameters())

    other, _ = train(tiny.lm, task(tiny, samples=200), settings(steps=2, batch=16, seed=5))
    again, log_again = train(tiny.lm, task(tiny, samples=200), part)
    assert again == files
    assert log_again == log
    assert other["adapter_model.safetensors"] != files["adapter_model.safetensors"]


def test_the_files_are_an_ordinary_peft_adapter(tiny, tmp_path):
    from peft import PeftModel

    policy = adapted(tiny.lm, settings())
    part = settings(steps=5, batch=16)
    supervised(policy, task(tiny, samples=200), part)
    files, _ = train(tiny.lm, task(tiny, samples=200), part)
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    assert sorted(files) == ["adapter_config.json", "adapter_model.safetensors"]
    config = json.loads(files["adapter_config.json"])
    assert config["base_model_name_or_path"] == "palette/base"
    assert config["target_modules"] == sorted(config["target_modules"])
    assert b"/" not in files["adapter_config.json"].replace(b"palette/base", b"")  # no path at all

    loaded = PeftModel.from_pretrained(world().lm.model, tmp_path)
    assert np.abs(tiny.logprobs(policy.model) - tiny.base).max() > 0.01
    assert np.allclose(tiny.logprobs(loaded), tiny.logprobs(policy.model), atol=1e-5)


def test_training_that_diverges_is_refused_with_the_cure():
    broken = world()
    broken.lm.model.model.norm.weight.fill_(float("nan"))
    task = alike(world(), [[1], [4, 1]])
    with pytest.raises(PaletteError, match=r"lower adapters\.learning_rate"):
        train(broken.lm, task, settings(steps=1, batch=4))
