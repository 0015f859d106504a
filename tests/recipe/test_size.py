"""How much a user has to know to train."""

from burnish.recipe.schema import known_keys

# Sections that say how the usual run trains, which is SFT with LoRA. The other sections say what
# the data is, and how the model is measured and kept.
SECTIONS = ("sft", "lora", "training")


def test_a_run_of_sft_with_lora_has_few_keys_that_say_how_it_trains() -> None:
    """They were 4 + 8 + 15 = 27. Before a key is added, make another one a constant."""
    keys = [key for key in known_keys() if key.partition(".")[0] in SECTIONS and "." in key]
    assert len(keys) <= 22, keys
