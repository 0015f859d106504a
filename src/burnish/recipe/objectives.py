"""The settings of each objective, and the properties that are known without a model."""

from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar, Literal

from pydantic import Field, create_model, field_validator

from burnish.recipe.paths import expanded
from burnish.recipe.section import ClassWeights, Section

_WEIGHTS = "weights of the classes in the loss: none, balanced, or a mapping of label to weight"
# Objectives that compare answers change the model a lot in small steps. TRL 1.16 uses 1/20 of SFT's
# rate for them; 1/10 is used here. At the full rate the policy of recipes/courteous-replies
# generated nonsense that its reward model scored high.
_COMPARING = 0.1
# Importing its modules registers further objectives.
_IMPLEMENTATIONS = "burnish.training.objectives"


@dataclass(frozen=True, slots=True)
class Head:
    """A head that replaces the model's vocabulary projection, so that it does not generate text.

    `kind` is the kind of output, `auto_class` the transformers class that loads the model, and
    `pipeline` its task on the Hugging Face Hub.
    """

    kind: Literal["classify", "tag", "reward"]
    reads_conversations: bool = False
    auto_class: str | None = None
    pipeline: str | None = None


@dataclass(frozen=True, slots=True)
class RowUse:
    """The rows that an objective trains on.

    Args:
        documents: whether plain texts are complete rows.
        grading_fields: whether the reward gets every column of a row.
        checks_itself: whether the objective's `check` reports missing fields.
        disliked: whether disliked answers are trained on; otherwise they are left out.
        replies: whether the replies of a conversation are trained on. Then rejected answers are
            left out, and replayed conversations may be added as rows.
    """

    documents: bool = False
    grading_fields: bool = False
    checks_itself: bool = True
    disliked: bool = False
    replies: bool = False


class ObjectiveSettings(Section):
    """The keys of the recipe's section of an objective, and its properties as class variables.

    A subclass is registered under its `name`. The default of each property is the cautious one.
    """

    # None if the model still generates text.
    head: ClassVar[Head | None] = None
    rows: ClassVar[RowUse] = RowUse()
    # Whether a KL penalty on replayed conversations can be added: rows are known before training.
    can_anchor: ClassVar[bool] = False
    # Whether weights may be sharded (FSDP): the loss of a batch is one pass through the layers.
    can_shard: ClassVar[bool] = False
    # Whether no key of its section changes the validation loss.
    validates_plainly: ClassVar[bool] = False
    # The automatic learning rate as a share of the one for supervised fine-tuning.
    learning_rate_share: ClassVar[float] = 1.0
    # Scorers if the recipe names none; None chooses them by the rows.
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
        """The reward that measures answers to test rows, and their maximum length in tokens."""
        return None


SETTINGS: dict[str, type[ObjectiveSettings]] = {}


def find_settings(name: str) -> type[ObjectiveSettings] | None:
    """Return the settings class of an objective; None if there is no such objective.

    The settings of an objective that is not built in come from its module, which imports torch.
    """
    if name not in SETTINGS:
        import_module(_IMPLEMENTATIONS)
    return SETTINGS.get(name)


def settings_of_class(name: str, members: dict[str, Any], annotations: dict[str, Any]) -> None:
    """Register settings created from a class's fields with defaults, and from its class variables.

    Args:
        name: the name of the objective; nothing is done if it has settings.
        members: names and values in the class's body.
        annotations: types of its fields.
    """
    if name in SETTINGS:
        return
    fields = {key: (kind, members[key]) for key, kind in annotations.items() if key in members}
    settings: Any = create_model(f"{name}Settings", __base__=ObjectiveSettings, **fields)  # type: ignore[call-overload]
    for variable in ObjectiveSettings.__class_vars__ & set(members):
        setattr(settings, variable, members[variable])
    SETTINGS[name] = settings


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
    """DPO (Rafailov et al. 2023, arXiv 2305.18290) and its variants, on preference pairs."""

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
    """KTO on liked and disliked answers (Ethayarajh et al. 2024, arXiv 2402.01306)."""

    rows = RowUse(disliked=True)
    can_anchor = True
    learning_rate_share = _COMPARING

    beta: float = Field(0.1, gt=0, description="strength of the penalty for leaving the base model")
    desirable_weight: float = Field(1.0, gt=0, description="weight of liked answers in the loss")
    undesirable_weight: float = Field(
        1.0, gt=0, description="weight of disliked answers in the loss"
    )


class Grpo(ObjectiveSettings, name="grpo"):
    """GRPO on sampled answers (Shao et al. 2024, arXiv 2402.03300)."""

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
    """Distillation from a teacher's distribution, token by token."""

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
    """Classification: a label for each text."""

    head = Head(
        "classify",
        auto_class="AutoModelForSequenceClassification",
        pipeline="text-classification",
    )
    rows = RowUse(checks_itself=False)

    weights: ClassWeights = Field("none", description=_WEIGHTS)


class Tag(ObjectiveSettings, name="tag"):
    """Tagging: an IOB2 tag for each word."""

    head = Head(
        "tag", auto_class="AutoModelForTokenClassification", pipeline="token-classification"
    )
    rows = RowUse(checks_itself=False)
    scorers = ("span_f1", "span_precision", "span_recall")

    weights: ClassWeights = Field("none", description=_WEIGHTS)


class Reward(ObjectiveSettings, name="reward"):
    """A reward model, trained on preference pairs (Ouyang et al. 2022, arXiv 2203.02155)."""

    head = Head("reward", reads_conversations=True)
