import pytest

from burnish.models.adapt import METHODS
from burnish.recipe.objectives import SETTINGS
from burnish.training.schedule import automatic_rate, rate_factor


def test_rate_by_hand() -> None:
    # 10 steps, 2 of warm-up: 1/3, 2/3, then the schedule from its peak
    assert rate_factor(0, 10, 2, "linear") == pytest.approx(1 / 3)
    assert rate_factor(1, 10, 2, "linear") == pytest.approx(2 / 3)
    assert rate_factor(2, 10, 2, "linear") == 1.0
    assert rate_factor(6, 10, 2, "linear") == pytest.approx(0.5)
    assert rate_factor(6, 10, 2, "cosine") == pytest.approx(0.5)
    assert rate_factor(9, 10, 2, "constant") == 1.0


def test_automatic_rate() -> None:
    assert automatic_rate("full", 2000) == pytest.approx(5e-5)
    assert automatic_rate("lora", 2000) == pytest.approx(5e-4)
    assert automatic_rate("lora", 576) == pytest.approx(5e-4 * (2000 / 576) ** 0.781)


@pytest.mark.parametrize(
    ("method", "size", "published"),
    [("ia3", 2048, 3e-3), ("bottleneck", 4096, 3e-4), ("prefix", 1024, 1e-2)],
)
def test_automatic_rate_meets_its_source(method: str, size: int, published: float) -> None:
    assert automatic_rate(method, size) == pytest.approx(published, rel=0.05)


def test_every_method_has_a_rate() -> None:
    for method in METHODS:
        assert automatic_rate(method, 2000) >= automatic_rate("full", 2000)


def test_an_encoder_takes_half_and_whole_weights_a_sixth() -> None:
    for method, share in (("lora", 2), ("bottleneck", 2), ("full", 6), ("last-n", 6)):
        assert automatic_rate(method, 384, encoder=True) == pytest.approx(
            automatic_rate(method, 384) / share
        )
    assert automatic_rate("lora", 384, encoder=True) == pytest.approx(9.07e-4, rel=0.01)
    # BERT itself was tuned at 2e-5 to 5e-5, and the rule gives it the lower end.
    assert automatic_rate("full", 768, encoder=True) == pytest.approx(1.8e-5, rel=0.03)


@pytest.mark.parametrize("objective", ["dpo", "kto", "grpo"])
def test_comparing_answers_takes_a_tenth(objective: str) -> None:
    assert automatic_rate(
        "lora", 576, share=SETTINGS[objective].learning_rate_share
    ) == pytest.approx(automatic_rate("lora", 576) / 10)
    assert SETTINGS["reward"].learning_rate_share == 1
