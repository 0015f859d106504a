"""What a client may ask of a fine-tuning job: strict, so that a misspelt key is an error."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from burnish.evaluation.graders import Graders
from burnish.serving.errors import conflicting
from burnish.serving.schemas.sampling import Body, said


def _none(integrations: list[Any]) -> list[Any]:
    if integrations:
        reason = "this server does not support integrations, so leave them out"
        raise PydanticCustomError("too_long", reason)  # the code of an array with too much in it
    return integrations


_AUTO = Literal["auto"]
Epochs = Annotated[
    _AUTO | Annotated[int, Field(ge=1, le=50)], said("'auto' or an integer from 1 to 50")
]
Batch = Annotated[
    _AUTO | Annotated[int, Field(ge=1, le=256)], said("'auto' or an integer from 1 to 256")
]
Multiplier = Annotated[
    _AUTO | Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)],
    said("'auto' or a number above 0"),
]
Beta = Annotated[
    _AUTO | Annotated[float, Field(gt=0, le=2)], said("'auto' or a number above 0, up to 2")
]
Count = Annotated[
    _AUTO | Annotated[int, Field(ge=1, le=1_000_000)], said("'auto' or a positive integer")
]
Compute = Annotated[
    _AUTO | Annotated[float, Field(gt=0, le=10)], said("'auto' or a number above 0, up to 10")
]


class Supervised(Body):
    """Hyperparameters of a supervised job; also accepted at the deprecated top level."""

    n_epochs: Epochs = "auto"
    batch_size: Batch = "auto"
    learning_rate_multiplier: Multiplier = "auto"


class Dpo(Supervised):
    """Hyperparameters of preference training (DPO)."""

    beta: Beta = "auto"


class Reinforcement(Supervised):
    """Hyperparameters of reinforcement training with a grader."""

    compute_multiplier: Compute = "auto"
    eval_interval: Count = "auto"
    eval_samples: Count = "auto"
    reasoning_effort: Literal["default", "low", "medium", "high"] = "default"


class SupervisedMethod(Body):
    """Supervised fine-tuning."""

    hyperparameters: Supervised = Field(default_factory=Supervised)


class DpoMethod(Body):
    """Preference training (DPO)."""

    hyperparameters: Dpo = Field(default_factory=Dpo)


class ReinforcementMethod(Body):
    """Reinforcement training with a grader."""

    grader: Graders
    hyperparameters: Reinforcement = Field(default_factory=Reinforcement)


class Method(Body):
    """The training method, with its settings under its own name."""

    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: SupervisedMethod | None = None
    dpo: DpoMethod | None = None
    reinforcement: ReinforcementMethod | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        others = {"supervised", "dpo", "reinforcement"} - {self.type}
        if strange := sorted(name for name in others if getattr(self, name) is not None):
            raise PydanticCustomError(
                "method", f"a {self.type} method cannot have {strange[0]} settings"
            )
        if self.type == "reinforcement" and self.reinforcement is None:
            raise PydanticCustomError("method", "a reinforcement method needs a grader")
        return self

    def complete(self) -> dict[str, Any]:
        """Return the API's object with every hyperparameter, `auto` for those left out."""
        defaults = {"supervised": SupervisedMethod, "dpo": DpoMethod}
        own = getattr(self, self.type) or defaults[self.type]()
        values = own.model_dump(mode="json", exclude_none=True)
        if self.reinforcement is not None:  # as it was given: a grader has no `auto`
            values["grader"] = self.reinforcement.grader.model_dump(mode="json", exclude_unset=True)
        return {"type": self.type, self.type: values}


Key = Annotated[str, Field(min_length=1, max_length=64)]
Value = Annotated[str, Field(max_length=512)]


class NewJob(Body):
    """The body of a request for a fine-tuning job."""

    model: Annotated[str, Field(min_length=1, max_length=255)]
    training_file: Annotated[str, Field(min_length=1, max_length=64)]
    validation_file: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    method: Method | None = None
    hyperparameters: Supervised | None = None
    suffix: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    seed: Annotated[int, Field(ge=0, le=2147483647)] | None = None
    metadata: Annotated[dict[Key, Value], Field(max_length=16)] | None = None
    integrations: Annotated[list[Any], AfterValidator(_none)] | None = None

    def complete_method(self) -> dict[str, Any]:
        """Return the method; without one it is supervised, with the hyperparameters of the top
        level.

        Raises:
            ApiError: hyperparameters stand in both places.
        """
        method = self.method or Method(type="supervised")
        if self.hyperparameters is None:
            return method.complete()
        if method.type != "supervised" or method.supervised is not None:
            reason = "Set the hyperparameters inside 'method' only."
            raise conflicting(reason, "hyperparameters")
        own = SupervisedMethod(hyperparameters=self.hyperparameters)
        return Method(type="supervised", supervised=own).complete()
