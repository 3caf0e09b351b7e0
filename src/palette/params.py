"""The parameters of params.yaml, typed: what each is for, what it may be, what must fit together."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from palette import consistency

Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Share = Annotated[float, Field(ge=0, lt=1)]
Epsilon = Annotated[float, Field(gt=0, lt=1, description="multiplicative slack, between 0 and 1")]
TraitName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", description="lower case, digits, _")]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Base(Section):
    model: str = Field(
        "sandbox", min_length=1, description="sandbox, a local directory, or a hub id"
    )
    revision: str | None = Field(None, description="for a hub id: the commit to pin")


class Sandbox(Section):
    seed: Seed = Field(0, description="another seed makes another world")
    users: Annotated[int, Field(ge=10)] = Field(280, description="users, unseen ones included")
    layers: Positive = Field(3, description="decoder layers of the base")
    hidden: Annotated[int, Field(ge=16, multiple_of=16)] = Field(
        96, description="width of the base"
    )
    steps: Positive = Field(1300, description="training steps of the base")


class Prompts(Section):
    file: str | None = Field(
        None, description="CSV, JSONL or Parquet: prompt, optional topic, split"
    )


class Users(Section):
    file: str | None = Field(
        None, description="Parquet, CSV, JSONL or JSON: rows, conversations or LaMP's questions"
    )
    unseen: Share = Field(0.18, description="share of users kept out of every estimate")


class Insights(Section):
    users: Positive | None = Field(
        None, description="users whom the base is asked about, drawn by name; null: all"
    )
    items: Annotated[int, Field(ge=1, le=10)] = Field(
        4, description="history rows shown to the model"
    )
    embedder: str = Field(
        "base",
        min_length=1,
        description="base, or a sentence-transformers model: a directory or owner/name@commit",
    )
    candidates: Positive = Field(9, description="prompts tried per user for the pairs")
    pairs: Positive = Field(3, description="of the candidates, those that tell tastes apart best")
    contrasts: Positive = Field(2, description="the base's own answers to each prompt of a history")
    seed: Seed = 0


class Subspaces(Section):
    method: Literal["gradient", "contrast", "contrast-svd", "style-vector", "chameleon"] = Field(
        "gradient", description="how the directions of the edits are found"
    )
    groups: Literal["everyone", "clusters", "users"] = Field(
        "users", description="who shares one set of directions"
    )
    max_clusters: Annotated[int, Field(ge=2)] = Field(8, description="the number is chosen below")
    rank: Positive = Field(1, description="of the subspaces of chameleon and contrast-svd")
    shrinkage: float = Field(
        4.0, ge=0, description="history rows at which a user's own directions weigh as the group's"
    )
    samples: Annotated[int, Field(ge=2)] = Field(
        40, description="rollouts per train prompt that gradient reads"
    )
    damping: float = Field(1.0, gt=0, description="of gradient, in units of the mean curvature")
    restarts: Positive = Field(4, description="of the CCS probe; the lowest loss is kept")
    epochs: Positive = Field(200, description="of each restart")
    seed: Seed = 0


class Tuning(Section):
    strengths: list[Annotated[float, Field(gt=0)]] = Field(
        [0.3, 0.5, 0.7, 1.0], min_length=1, description="tried on select, beside the identity"
    )
    layers: list[Literal["all", "upper", "last"]] = Field(
        ["all", "last"], min_length=1, description="sets of layers tried: the budget is the product"
    )
    users: Positive = Field(4, description="seen users of a cluster, or member, who stand for it")
    samples: Positive = Field(2, description="answers per select prompt, trial and user")
    seed: Seed = 0


class RolloutSamples(Section):
    train: Annotated[int, Field(ge=2)] = 1024
    select: Annotated[int, Field(ge=2)] = 256
    certify: Annotated[int, Field(ge=2)] = 128
    test: Annotated[int, Field(ge=2)] = 256


class Rollouts(Section):
    max_new_tokens: Positive = Field(48, description="one limit for every policy")
    samples: RolloutSamples = Field(
        RolloutSamples(), description="answers per prompt of each split"
    )
    seed: Seed = 0


class Trait(BaseModel):
    """One trait: `kind` names a module of palette.traits; keys that are not below are that module's."""

    model_config = ConfigDict(extra="allow", frozen=True)
    kind: str = Field(description="a module of palette.traits")
    role: Literal["train", "judge"] = Field(
        "train", description="judge: scored and reported, but no weight, plan or training knows it"
    )
    range: tuple[float, float] | None = Field(
        None, description="scores that mean 0 and 1, where they are not in [0, 1] already"
    )
    calibrate: Literal["quantiles"] | None = Field(
        None, description="the same two from the base's train rollouts; palette traits calibrate"
    )

    @property
    def makes(self) -> dict[str, Any]:
        """What of it decides its rewards: all but the role, without what is not set."""
        return self.model_dump(exclude={"role"}, exclude_defaults=True)


class Objective(Section):
    beta: float = Field(0.1, gt=0, description="price of one nat of KL to the base")


class Weights(Section):
    floor: dict[TraitName, Share] = Field(
        {}, description="the least weight of a trait: of every user and every member"
    )


class Preferences(Section):
    scale: float | None = Field(
        None, gt=0, le=30, description="sharpness of choices, nats per unit of w.r; null: estimated"
    )
    strangers: float | None = Field(
        None, ge=0, le=0.5, description="share of rows by someone else; null: estimated"
    )
    half_life: float | None = Field(
        None, gt=0, description="days after which a row counts half; null: tastes do not drift"
    )
    pairs: float = Field(0.05, ge=0, le=1, description="weight of a self-generated pair")
    level: Annotated[float, Field(gt=0, lt=1)] = Field(0.9, description="of each weight's interval")


class Plan(Section):
    epsilon: Epsilon = 0.02
    strategy: Literal["minimal", "lazy", "palm-grid", "uniform", "random"] = Field(
        "minimal", description="how the weights to train for are chosen"
    )
    max_members: Positive | None = Field(
        None, description="budget: the best plan of at most so many members, whatever its epsilon"
    )
    lattice: Annotated[int, Field(ge=2, le=60)] = Field(20, description="steps of the lattice")
    pinned: str | None = Field(None, description="CSV of weights that must be in the plan")
    seed: Seed = Field(0, description="of the strategy random")


class Adapters(Section):
    kind: Literal["family", "members"] = Field(
        "family", description="one training for all weights, or one for each member of the plan"
    )
    rank: Positive = 16
    batch: Positive = Field(128, description="rows of a supervised step; of each member")
    learning_rate: float = Field(5e-3, gt=0, lt=1)
    steps: Count = Field(300, description="supervised, on resampled rollouts")
    rloo_batch: Positive = Field(256, description="rows of an RLOO step; of each member")
    rloo_learning_rate: float = Field(2e-3, gt=0, lt=1)
    rloo_steps: Count = Field(200, description="on-policy polish")
    generations: Annotated[int, Field(ge=2)] = Field(
        8, description="completions per prompt in RLOO"
    )
    concentration: float = Field(
        0.5, gt=0, description="of the random weights that a family trains on; low: corners of W"
    )
    share: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="a member's training ends once it reached so much of what is possible"
    )
    max_minutes: float | None = Field(
        None, gt=0, description="of each of the two phases; what is cut short is reported"
    )
    seed: Seed = 0


class ValueSamples(Section):
    select: Positive = 32
    certify: Positive = 32
    test: Positive = 24


class Values(Section):
    samples: ValueSamples = Field(ValueSamples(), description="answers per prompt of each split")
    seed: Seed = 0


class Portfolio(Section):
    epsilon: Epsilon = 0.05
    delta: float = Field(0.0, ge=0, lt=1, description="additive slack, in units of w.r")
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    bootstrap: Annotated[int, Field(ge=100)] = 2000
    mend: Positive = Field(4, description="weights named at most where the verdict fails")
    seed: Seed = 0


class Routes(Section):
    rule: Literal["mean", "robust"] = Field(
        "mean", description="best at the mean, or least worst regret over the user's interval"
    )
    previous: str | None = Field(None, description="CSV of earlier routes, kept where they do")
    hysteresis: float = Field(
        0.005, ge=0, description="a user is not moved for less, in units of w.r"
    )
    max_regret: float = Field(1.0, gt=0, description="above it a user is marked uncertain")


class Baselines(Section):
    samples: Positive = Field(2, description="answers per policy and test prompt")
    per_user: Count = Field(2, description="users who get adapters of their own")
    steps: Positive = Field(20, description="of DPO and SFT on a user's own pairs")
    training: Positive = Field(
        120,
        description="supervised steps of `per_user`, and of `soup` where no family has its parts",
    )
    seed: Seed = 0


class Evaluation(Section):
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    bootstrap: Annotated[int, Field(ge=100)] = 2000
    seed: Seed = 0


class Runtime(Section):
    engine: Literal["loky", "threading", "sequential", "dask"] = "loky"
    workers: Positive = Field(2, description="processes that share the work")
    threads: Positive = Field(1, description="per worker")
    device: str = Field("auto", description="auto, cpu, cuda or mps")
    backend: Literal["transformers", "vllm"] = Field(
        "transformers", description="what answers; vllm was never run by its makers"
    )
    store: str = Field(".palette/store", min_length=1, description="any fsspec URL; safe to delete")


class Params(Section):
    base: Base = Base()
    sandbox: Sandbox = Sandbox()
    prompts: Prompts = Prompts()
    users: Users = Users()
    insights: Insights = Insights()
    subspaces: Subspaces = Subspaces()
    tuning: Tuning = Tuning()
    rollouts: Rollouts = Rollouts()
    traits: dict[TraitName, Trait] = Field(min_length=1, description="one reward per trait")
    objective: Objective = Objective()
    weights: Weights = Weights()
    preferences: Preferences = Preferences()
    plan: Plan = Plan()
    adapters: Adapters = Adapters()
    values: Values = Values()
    portfolio: Portfolio = Portfolio()
    routes: Routes = Routes()
    baselines: Baselines = Baselines()
    evaluation: Evaluation = Evaluation()
    runtime: Runtime = Runtime()

    @model_validator(mode="after")
    def _consistent(self) -> "Params":
        complaint = consistency.complaint(self)
        if complaint:
            raise ValueError(complaint)
        return self

    @property
    def trained(self) -> dict[str, Trait]:
        """The coordinates of w, in order: all traits but the judges."""
        return {name: trait for name, trait in self.traits.items() if trait.role == "train"}

    @property
    def judges(self) -> dict[str, Trait]:
        """The traits that are held out: they judge what the others have made."""
        return {name: trait for name, trait in self.traits.items() if trait.role == "judge"}

    @property
    def trait_names(self) -> list[str]:
        return list(self.trained)

    @property
    def floor(self) -> list[float]:
        """The least weight of each trait, in the order of `trait_names`."""
        return [self.weights.floor.get(name, 0.0) for name in self.trained]
