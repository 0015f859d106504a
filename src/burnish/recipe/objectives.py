"""Settings of each objective, and the facts about it that are known without a model."""

from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar, Literal

from pydantic import Field, create_model, field_validator

from burnish.recipe.paths import expanded
from burnish.recipe.section import ClassWeights, Section

_WEIGHTS = "weights of the classes in the loss: none, balanced, or a mapping of label to weight"
# Objectives that compare answers move far with small steps. TRL 1.16 takes 1/20 of SFT's rate for
# them; here at 1/10, since at the full rate the policy of recipes/courteous-replies wrote nonsense
# that its reward model liked.
_COMPARING = 0.1
# Its modules register further objectives as they are imported.
_IMPLEMENTATIONS = "burnish.training.objectives"


@dataclass(frozen=True, slots=True)
class Head:
    """A head on the model, in place of its vocabulary: such a model writes no text.

    `kind` names what it gives, `auto_class` the class that opens it in transformers, `pipeline`
    the task that the Hugging Face Hub has for it.
    """

    kind: Literal["classify", "tag", "reward"]
    reads_conversations: bool = False
    auto_class: str | None = None
    pipeline: str | None = None


@dataclass(frozen=True, slots=True)
class RowUse:
    """Which rows an objective learns from.

    Args:
        documents: plain texts are documents, and lack nothing.
        grading_fields: every column of a row reaches the reward.
        checks_itself: the objective's own `check` says what rows of a file lack.
        disliked: answers that people disliked teach something; otherwise they are left out.
        replies: it learns all replies of a conversation, one answer to a prompt. So a rejected
            answer is not learnt from, and replayed conversations may be mixed in as rows.
    """

    documents: bool = False
    grading_fields: bool = False
    checks_itself: bool = True
    disliked: bool = False
    replies: bool = False


class ObjectiveSettings(Section):
    """Keys that the recipe's section of an objective has, and what holds for every run of it.

    A subclass is registered under its `name`. What a subclass does not say is the cautious answer.
    """

    # None where the model goes on writing text.
    head: ClassVar[Head | None] = None
    rows: ClassVar[RowUse] = RowUse()
    # Its rows are known before training, so a KL penalty on replayed conversations can be added.
    can_anchor: ClassVar[bool] = False
    # The loss of a batch is one pass through the layers, so weights may be sharded (FSDP).
    can_shard: ClassVar[bool] = False
    # No key of its section changes how the validation loss is computed.
    validates_plainly: ClassVar[bool] = False
    # The automatic learning rate as a share of the one for supervised fine-tuning.
    learning_rate_share: ClassVar[float] = 1.0
    # Scorers where the recipe names none; None takes those that fit the rows.
    scorers: ClassVar[tuple[str, ...] | None] = None

    def __init_subclass__(cls, *, name: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if name is not None:
            SETTINGS[name] = cls

    @property
    def writes_text(self) -> bool:
        """Whether the tuned model generates text; one with a head does not."""
        return self.head is None

    @property
    def measured_reward(self) -> tuple[str, int] | None:
        """The reward that answers to test rows are measured by, and their longest, in tokens."""
        return None


SETTINGS: dict[str, type[ObjectiveSettings]] = {}


def find_settings(name: str) -> type[ObjectiveSettings] | None:
    """The settings of an objective by its name; None where there is no such objective.

    One that is not built in has its settings from its implementation, which imports torch.
    """
    if name not in SETTINGS:
        import_module(_IMPLEMENTATIONS)
    return SETTINGS.get(name)


def settings_of_class(name: str, members: dict[str, Any], annotations: dict[str, Any]) -> None:
    """Registers settings made of a class's own fields with defaults, and of its facts.

    Args:
        name: the objective's, if it brings no settings.
        members: names and values in the class's body.
        annotations: types of its fields.
    """
    if name in SETTINGS:
        return
    fields = {key: (kind, members[key]) for key, kind in annotations.items() if key in members}
    made: Any = create_model(f"{name}Settings", __base__=ObjectiveSettings, **fields)  # type: ignore[call-overload]
    for fact in ObjectiveSettings.__class_vars__ & set(members):
        setattr(made, fact, members[fact])
    SETTINGS[name] = made


class Sft(ObjectiveSettings, name="sft"):
    """Supervised fine-tuning and its variants."""

    rows = RowUse(checks_itself=False, replies=True)
    can_anchor = True
    can_shard = True
    validates_plainly = True

    neftune_noise_alpha: float = Field(
        0.0, ge=0, description="strength of the noise on the embeddings, arXiv 2310.05914"
    )
    token_weighting: Literal["all", "entropy", "likely"] = Field(
        "all", description="token weighting: all, by entropy (EAFT), or likely under the base (STM)"
    )


class Lm(ObjectiveSettings, name="lm"):
    """Continued pre-training on documents."""

    rows = RowUse(checks_itself=False, documents=True)
    can_anchor = True
    can_shard = True


class Dpo(ObjectiveSettings, name="dpo"):
    """Preference pairs (Rafailov et al. 2023, arXiv 2305.18290) and the relatives."""

    can_anchor = True
    can_shard = True
    learning_rate_share = _COMPARING

    loss_type: Literal["sigmoid", "ipo", "simpo", "orpo"] = Field(
        "sigmoid", description="loss of a pair; sigmoid is plain DPO"
    )
    beta: float = Field(
        0.1, gt=0, description="strength; 2 to 2.5 for simpo; for orpo the weight of the odds ratio"
    )
    gamma: float = Field(0.5, ge=0, description="target reward margin, simpo only")
    precompute_reference: bool = Field(
        True, description="compute the reference log-probabilities once, before training"
    )


class Kto(ObjectiveSettings, name="kto"):
    """Answers judged alone (Ethayarajh et al. 2024, arXiv 2402.01306)."""

    rows = RowUse(disliked=True)
    can_anchor = True
    learning_rate_share = _COMPARING

    beta: float = Field(0.1, gt=0, description="strength of the penalty for leaving the base model")
    desirable_weight: float = Field(1.0, gt=0, description="weight of liked answers in the loss")
    undesirable_weight: float = Field(
        1.0, gt=0, description="weight of disliked answers in the loss"
    )


class Grpo(ObjectiveSettings, name="grpo"):
    """Sampled answers, rewarded against their own group (Shao et al. 2024, arXiv 2402.03300)."""

    rows = RowUse(grading_fields=True)
    learning_rate_share = _COMPARING

    reward: str = Field(
        "accuracy",
        description="a scorer, FILE.py:FUNCTION, a grader's FILE.json, or a reward run's folder",
    )
    num_generations: int = Field(8, gt=1, description="sampled answers per prompt")
    max_new_tokens: int = Field(
        64, gt=0, description="maximum length of a sampled answer, in tokens"
    )
    temperature: float = Field(1.0, gt=0, description="temperature of the sampled answers")
    epsilon: float = Field(
        0.2, gt=0, lt=1, description="clip range of the probability ratio, around 1"
    )
    beta: float = Field(0.02, ge=0, description="weight of the KL penalty to the base model")
    num_iterations: int = Field(
        1, gt=0, description="optimizer updates per batch of sampled answers"
    )

    @field_validator("reward")
    @classmethod
    def _in_the_home_folder(cls, reward: str) -> str:
        return str(expanded(reward)) if reward.startswith("~") else reward

    @property
    def measured_reward(self) -> tuple[str, int]:
        return self.reward, self.max_new_tokens


class Distill(ObjectiveSettings, name="distill"):
    """A teacher's distribution, token by token."""

    teacher: str | None = Field(
        None, description="teacher model or URL of a server; null is the base model itself"
    )
    served_name: str = Field("default", description="name of the model on the teacher's server")
    system: str | None = Field(None, description="system message for the teacher only")
    kl_direction: Literal["forward", "reverse"] = Field(
        "forward", description="forward is KL(teacher, student), reverse is KL(student, teacher)"
    )
    on_policy: bool = Field(
        False, description="train on answers that the model samples, not on the answers of the rows"
    )
    max_new_tokens: int = Field(
        64, gt=0, description="maximum length of a sampled answer, in tokens"
    )
    temperature: float = Field(1.0, gt=0, description="temperature of the sampled answers")


class Classify(ObjectiveSettings, name="classify"):
    """A label for each text."""

    head = Head(
        "classify",
        auto_class="AutoModelForSequenceClassification",
        pipeline="text-classification",
    )
    rows = RowUse(checks_itself=False)

    weights: ClassWeights = Field("none", description=_WEIGHTS)


class Tag(ObjectiveSettings, name="tag"):
    """An IOB2 tag for each word."""

    head = Head(
        "tag", auto_class="AutoModelForTokenClassification", pipeline="token-classification"
    )
    rows = RowUse(checks_itself=False)
    scorers = ("span_f1", "span_precision", "span_recall")

    weights: ClassWeights = Field("none", description=_WEIGHTS)


class Reward(ObjectiveSettings, name="reward"):
    """A number for each answer, learnt from pairs (Ouyang et al. 2022, arXiv 2203.02155)."""

    head = Head("reward", reads_conversations=True)
