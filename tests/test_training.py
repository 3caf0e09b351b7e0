"""Training converges to π*_w, in a world where π*_w, f* and J are exact sums."""

import json

import numpy as np
import pytest
import torch

from palette.core.reaching import REACHED
from palette.errors import PaletteError
from palette.lm import peft_files
from palette.lm.learner import Task, learning
from palette.lm.reinforcement import reinforce
from palette.lm.supervision import supervised
from palette.lm.training import train_family, train_members
from palette.params import Adapters
from tests.worlds import LONGEST, rewards, world

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
        rewards=tiny.rewards.T[rollouts],
        reward=lambda questions, responses: rewards(responses).T,
        beta=beta,
        max_new_tokens=LONGEST,
        floor=np.zeros(2),
    )


def settings(**changes):
    few = {"rank": 8, "steps": 0, "rloo_steps": 0, "rloo_batch": 128}
    return Adapters(**few | {"learning_rate": 1e-2, "rloo_learning_rate": 1e-2} | changes)


def one(tiny, part=None):
    """A learner of one member, at W."""
    return learning(tiny.lm, W[None], part or settings())


def only(tiny, some, part):
    """The files and the log of one member, at W."""
    ((files, log),) = train_members(tiny.lm, some, W[None], part)
    return files, log


def share_and_kl(tiny, learner, w=W, condition=0):
    """Share of the possible improvement at w and BETA, and mean KL(π ‖ π*_w) over prompts."""
    exact = logprobs(tiny, learner, condition)
    ideal, _ = tiny.ideal(w, BETA)
    kl = (np.exp(exact) * (exact - ideal)).sum(1).mean()
    return tiny.share(exact, w, BETA), kl


def logprobs(tiny, learner, condition=0):
    """(prompts, answers) of the learner's policy, all rows through one condition."""
    own = torch.tensor(condition)
    learner.rows.focus(own.expand(len(tiny.answers), *own.shape))
    found = tiny.logprobs(learner.policy.model)
    learner.rows.focus(None)
    return found


def test_the_world_is_exact(tiny):
    """f* bounds J, is reached by π*_w, and falls short elsewhere by β KL(π ‖ π*_w)."""
    assert np.allclose(np.exp(tiny.base).sum(1), 1)
    ideal, best = tiny.ideal(W, BETA)
    assert tiny.objective(ideal, W, BETA) == pytest.approx(best)
    kl = (np.exp(tiny.base) * (tiny.base - ideal)).sum(1).mean()
    assert best - tiny.objective(tiny.base, W, BETA) == pytest.approx(BETA * kl)
    assert kl > 0.5  # the base is far from ideal, or the tests below would show nothing


def test_supervised_converges_to_the_ideal_policy(tiny):
    learner = one(tiny)
    (log,) = supervised(learner, task(tiny), settings(steps=200))
    share, kl = share_and_kl(tiny, learner)
    assert share > 0.95
    assert kl < 0.06
    assert [(phase, step) for phase, step, _ in log] == [("supervised", n + 1) for n in range(200)]
    assert log[-1][2] < log[0][2]


def test_reinforce_alone_converges_to_the_ideal_policy(tiny):
    learner = one(tiny)
    (log,) = reinforce(learner, task(tiny), settings(rloo_steps=150))
    share, kl = share_and_kl(tiny, learner)
    assert share > 0.95
    assert kl < 0.06
    assert {phase for phase, _, _ in log} == {"rloo"}
    assert np.mean([loss for *_, loss in log[-10:]]) < np.mean([loss for *_, loss in log[:10]])


def test_reinforce_after_supervised_prices_the_kl_to_the_base(tiny):
    """Priced to the supervised adapter, TRL's default, the optimum would be tilted twice."""
    learner = one(tiny)
    supervised(learner, task(tiny), settings(steps=60))
    before, _ = share_and_kl(tiny, learner)
    reinforce(learner, task(tiny), settings(rloo_steps=80, rloo_learning_rate=5e-3))
    after, kl = share_and_kl(tiny, learner)
    assert after > before
    assert after > 0.95
    assert kl < 0.06


@pytest.mark.parametrize("phase", ["steps", "rloo_steps"])
@pytest.mark.parametrize("wrong", [0.03, 0.4])
def test_another_beta_has_visibly_another_optimum(tiny, phase, wrong):
    """The control: with the wrong β the same training does not pass for convergence."""
    learner = one(tiny)
    part = settings(**{phase: 60})
    run = supervised if phase == "steps" else reinforce
    run(learner, task(tiny, beta=wrong), part)
    share, kl = share_and_kl(tiny, learner)
    assert share < 0.8
    assert kl > 0.2


def alike(tiny, chosen):
    """A task of one prompt and a few rollouts, all equally good."""
    return Task(
        tiny.prompts[1:], tiny.questions[1:], [chosen], np.full((1, len(chosen), 2), 0.5),
        lambda questions, responses: rewards(responses).T, BETA, LONGEST, np.zeros(2),
    )  # fmt: skip


def nll(tiny, chosen):
    return [-tiny.base[1][tiny.answers.index(answer)] for answer in chosen]


def entropy(tiny, chosen):
    """Cross entropy of the base to soft targets of equal masses, by brute force: nats per rollout."""
    total = 0.0
    for answer in chosen:
        for depth in range(len(answer)):
            share = [other for other in chosen if other[:depth] == answer[:depth]]
            nexts = [other[depth] for other in share if len(other) > depth]
            prefix = torch.tensor([tiny.prompts[1] + answer[:depth]])
            logprobs = tiny.lm.model(input_ids=prefix).logits[0, -1].double().log_softmax(-1)
            total -= float(sum(logprobs[token] for token in nexts)) / len(nexts)
    return total


def test_the_loss_covers_answer_tokens_as_they_are(tiny):
    """No prompt token, no eos after a truncated answer, in whatever part of the batch it lies."""
    chosen = [[1], [4, 1], [4, 6, 1], [4, 6, 7]]
    (((_, _, loss), *_),) = supervised(one(tiny), alike(tiny, chosen), settings(steps=1, batch=16))
    assert loss == pytest.approx(entropy(tiny, chosen) / sum(map(len, chosen)), rel=1e-5)


def test_every_token_weighs_the_same_in_every_batch(tiny):
    """Losses of steps are sums over one constant, not means over the tokens of their batch."""
    chosen = [[1], [4, 6, 7]]
    (log,) = supervised(
        one(tiny), alike(tiny, chosen), settings(steps=2, batch=1, learning_rate=1e-12)
    )
    first = entropy(tiny, [[1], [4]]) / 2  # the first token, which has a soft target in both
    soft = [first, entropy(tiny, chosen) - first]
    assert sorted(loss for *_, loss in log) == pytest.approx(sorted(x / 2 for x in soft), rel=1e-5)


def test_members_trained_together_are_what_they_are_alone(tiny):
    """One pass for three members: the same gradients, so the same adapters to float tolerance."""
    weights = np.array([[0.5, 0.5], [0.9, 0.1], [0.0, 1.0]])
    part = settings(steps=8, rloo_steps=3, batch=16, rloo_batch=16)
    together = train_members(tiny.lm, task(tiny, samples=300), weights, part)
    for own, (files, log) in zip(weights, together, strict=True):
        ((alone, log_alone),) = train_members(tiny.lm, task(tiny, samples=300), own[None], part)
        assert files["adapter_config.json"] == alone["adapter_config.json"]
        assert [row[:2] for row in log] == [row[:2] for row in log_alone]
        supervised_part = [row[2] for row in log[:8]], [row[2] for row in log_alone[:8]]
        np.testing.assert_allclose(*supervised_part, rtol=1e-4)
    logs = [log[7][2] for _, log in together]
    assert len(set(np.round(logs, 4))) == 3  # and they are not one another


def test_the_gradient_of_one_member_is_that_of_a_training_of_its_own(tiny):
    """After one step, before rounding has grown: exactly what decides the training."""
    weights = np.array([[0.5, 0.5], [0.9, 0.1], [0.0, 1.0]])
    part = settings(steps=1, batch=16)
    some = task(tiny, samples=300)
    together = learning(tiny.lm, weights, part)
    supervised(together, some, part)
    for member, own in enumerate(weights):
        alone = learning(tiny.lm, own[None], part)
        supervised(alone, some, part)
        for name, parameter in alone.rows.named_parameters():
            other = dict(together.rows.named_parameters())[name]
            torch.testing.assert_close(other[member], parameter[0], rtol=1e-3, atol=1e-5)


def test_one_family_is_near_the_ideal_at_every_weight(tiny):
    part = settings(steps=150, rloo_steps=30, batch=128, rloo_learning_rate=3e-3)
    files, log = train_family(tiny.lm, task(tiny, samples=4000), part)
    assert len(log) == 180
    family = peft_files.read_family(files)
    for first in (0.0, 0.2, 0.5, 0.8, 1.0):
        w = np.array([first, 1 - first])
        point = family.matrices(torch.tensor(w, dtype=torch.float32))
        share = tiny.share(through_peft(tiny, peft_files.of_matrices(point)), w, BETA)
        assert share > 0.93, first
        swapped = family.matrices(torch.tensor(w[::-1].copy(), dtype=torch.float32))
        other = tiny.share(through_peft(tiny, peft_files.of_matrices(swapped)), w, BETA)
        assert first == 0.5 or other < share - 0.02  # the control: another's point is worth less


def test_each_member_ends_where_it_reaches_its_share_and_stays_so(tiny):
    """In one pass; the one who is last trains on, and the training ends with it."""
    weights = np.eye(2)
    part = settings(steps=100, rloo_steps=20, batch=64, share=0.9, learning_rate=5e-3)
    some = task(tiny, samples=4000)
    made = train_members(tiny.lm, some, weights, part)
    ends = []
    for own, (files, log) in zip(weights, made, strict=True):
        *steps, (phase, end, left) = log
        assert phase == REACHED
        assert steps[-1][1] == end < 100
        assert {name for name, *_ in steps} == {"supervised"}
        share = tiny.share(through_peft(tiny, files), own, BETA)
        assert share > 0.85
        assert share == pytest.approx(1 - left, abs=0.1)
        ends.append(end)
    assert ends[0] != ends[1]

    # What the first of them to end is, it was when it ended: the steps of the other change nothing.
    first = int(np.argmin(ends))
    (files, log), _ = (made[first], made[1 - first])
    assert len(log) == ends[first] + 1
    whole = train_members(tiny.lm, some, weights, part.model_copy(update={"share": None}))
    assert len(whole[first][1]) == 120
    assert whole[first][1][: ends[first]] == log[:-1]


def test_a_share_out_of_reach_changes_no_bit(tiny):
    part = settings(steps=12, rloo_steps=4, batch=16)
    some = task(tiny, samples=200)
    ((files, log),) = train_members(tiny.lm, some, W[None], part)
    far = part.model_copy(update={"share": 0.9999})
    ((again, log_again),) = train_members(tiny.lm, some, W[None], far)
    assert again == files
    assert log_again == log


def test_a_family_ends_where_every_corner_and_the_middle_have_reached_the_share(tiny):
    part = settings(steps=200, batch=128, share=0.85)
    files, log = train_family(tiny.lm, task(tiny, samples=4000), part)
    assert log[-1][0] == REACHED
    assert len(log) - 1 == log[-1][1] < 200
    family = peft_files.read_family(files)
    for w in ([1.0, 0.0], [0.5, 0.5], [0.0, 1.0]):
        point = family.matrices(torch.tensor(w))
        policy = through_peft(tiny, peft_files.of_matrices(point))
        assert tiny.share(policy, np.array(w), BETA) > 0.8


def through_peft(tiny, files):
    """Log-probabilities of an adapter, loaded by PEFT itself."""
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from peft import PeftModel

    with TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        return tiny.logprobs(PeftModel.from_pretrained(world().lm.model, folder))


def test_the_base_is_left_as_it_was_and_training_repeats_bit_for_bit(tiny):
    model = tiny.lm.model
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config, generation = model.config.to_dict(), model.generation_config.to_dict()
    modules = [(name, type(module)) for name, module in model.named_modules()]
    part = settings(steps=3, rloo_steps=2, batch=16)

    done = []
    ((files, log),) = train_members(tiny.lm, task(tiny, samples=200), W[None], part, done.append)
    assert sum(done) == 5
    assert [phase for phase, *_ in log] == ["supervised"] * 3 + ["rloo"] * 2

    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
    assert [(name, type(module)) for name, module in model.named_modules()] == modules
    assert model.config.to_dict() == config
    assert model.generation_config.to_dict() == generation
    assert "forward" not in vars(model)
    assert not model.training
    assert not any(weight.requires_grad for weight in model.parameters())

    other, _ = only(tiny, task(tiny, samples=200), settings(steps=2, batch=16, seed=5))
    again, log_again = only(tiny, task(tiny, samples=200), part)
    assert again == files
    assert log_again == log
    assert other["adapter_model.safetensors"] != files["adapter_model.safetensors"]


def test_the_files_are_an_ordinary_peft_adapter(tiny):
    part = settings(steps=5, batch=16)
    learner = one(tiny, part)
    supervised(learner, task(tiny, samples=200), part)
    files, _ = only(tiny, task(tiny, samples=200), part)
    assert sorted(files) == ["adapter_config.json", "adapter_model.safetensors"]
    config = json.loads(files["adapter_config.json"])
    assert config["base_model_name_or_path"] == "palette/base"
    assert config["target_modules"] == sorted(config["target_modules"])
    assert b"/" not in files["adapter_config.json"].replace(b"palette/base", b"")  # no path at all

    trained = logprobs(tiny, learner)
    assert np.abs(trained - tiny.base).max() > 0.01
    assert np.allclose(through_peft(tiny, files), trained, atol=1e-5)


def test_training_that_diverges_is_refused_with_the_cure():
    broken = world()
    broken.lm.model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(PaletteError, match=r"lower adapters\.learning_rate"):
        only(broken, alike(world(), [[1], [4, 1]]), settings(steps=1, batch=4))
