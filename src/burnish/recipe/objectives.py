"""Settings of the objectives: what they learn."""

from typing import Literal

from pydantic import Field, field_validator

from burnish.recipe.paths import expanded
from burnish.recipe.section import ClassWeights, Section

_WEIGHTS = "weights of the classes in the loss: none, balanced, or a mapping of label to weight"


class Sft(Section):
    """Supervised fine-tuning and its variants."""

    neftune_noise_alpha: float = Field(
        0.0, ge=0, description="noise on the embeddings, arXiv 2310.05914"
    )
    token_weighting: Literal["all", "entropy", "likely"] = Field(
        "all", description="tokens that count: all, by entropy (EAFT), or the base's likely (STM)"
    )


class Lm(Section):
    """Continued pre-training on documents."""


class Dpo(Section):
    """Preference pairs (Rafailov et al. 2023, arXiv 2305.18290) and the relatives."""

    loss_type: Literal["sigmoid", "ipo", "simpo", "orpo"] = Field(
        "sigmoid", description="loss of a pair: sigmoid is plain DPO"
    )
    beta: float = Field(
        0.1, gt=0, description="strength, simpo wants 2 to 2.5; of orpo, the odds ratio's weight"
    )
    gamma: float = Field(0.5, ge=0, description="target margin of simpo")
    precompute_reference: bool = Field(True, description="reference computed once, before training")


class Kto(Section):
    """Answers judged alone (Ethayarajh et al. 2024, arXiv 2402.01306)."""

    beta: float = Field(0.1, gt=0, description="strength of the pull to the base model")
    desirable_weight: float = Field(1.0, gt=0, description="weight of liked answers in the loss")
    undesirable_weight: float = Field(
        1.0, gt=0, description="weight of disliked answers in the loss"
    )


class Grpo(Section):
    """Sampled answers, rewarded against their own group (Shao et al. 2024, arXiv 2402.03300)."""

    reward: str = Field(
        "accuracy",
        description="a scorer, FILE.py:FUNCTION, a grader's FILE.json, or a reward run's folder",
    )
    num_generations: int = Field(8, gt=1, description="sampled answers a prompt")
    max_new_tokens: int = Field(64, gt=0, description="longest sampled answer, in tokens")
    temperature: float = Field(1.0, gt=0, description="temperature of the sampled answers")
    epsilon: float = Field(
        0.2, gt=0, lt=1, description="how far a token's probability ratio may leave 1"
    )
    beta: float = Field(0.02, ge=0, description="weight of the KL to the base model")
    num_iterations: int = Field(1, gt=0, description="optimizer updates on the answers of one step")

    @field_validator("reward")
    @classmethod
    def _in_the_home_folder(cls, reward: str) -> str:
        return str(expanded(reward)) if reward.startswith("~") else reward


class Distill(Section):
    """A teacher's distribution, token by token."""

    teacher: str | None = Field(None, description="a model, a server's URL, or null: the base")
    served_name: str = Field("default", description="how a teacher's server calls its model")
    system: str | None = Field(None, description="system message that the teacher reads")
    kl_direction: Literal["forward", "reverse"] = Field(
        "forward", description="KL of teacher and student, or of student and teacher"
    )
    on_policy: bool = Field(
        False, description="train on answers that the model samples, not on the answers of the rows"
    )
    max_new_tokens: int = Field(64, gt=0, description="longest sampled answer, in tokens")
    temperature: float = Field(1.0, gt=0, description="temperature of the sampled answers")


class Classify(Section):
    """A label for each text."""

    weights: ClassWeights = Field("none", description=_WEIGHTS)


class Tag(Section):
    """An IOB2 tag for each word."""

    weights: ClassWeights = Field("none", description=_WEIGHTS)


class Reward(Section):
    """A number for each answer, learnt from pairs (Ouyang et al. 2022, arXiv 2203.02155)."""
