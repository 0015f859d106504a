"""Suggests the recipe key for an unknown key: a misspelt key, or the name in another tool."""

import difflib
from collections.abc import Sequence

# Least similarity of a suggested key: no hint is better than a wrong one.
_SIMILARITY = 0.75

_RATE = ("lr", "learning_rate", "learningrate", "learning_rate_multiplier", "peak_lr", "max_lr")
_EPOCHS = ("epochs", "epoch", "n_epochs", "num_epochs", "num_train_epochs", "max_epochs")
_BATCH = (
    *("batch", "bs", "batch_size", "train_batch_size", "micro_batch_size", "mini_batch_size"),
    *("per_device_train_batch_size", "per_device_batch_size", "per_gpu_train_batch_size"),
)
_ACCUMULATION = (
    *("gradient_accumulation", "gradient_accumulation_steps", "grad_accum", "accumulation_steps"),
    *("grad_accumulation_steps", "accumulate_grad_batches"),
)
_LENGTH = (
    *("max_length", "max_seq_length", "max_seq_len", "cutoff_len", "sequence_len", "seq_length"),
    *("seq_len", "model_max_length", "block_size", "context_length", "max_len"),
)
_TRAIN = ("train", "train_file", "train_data", "train_path", "dataset", "datasets", "data_path")
_VALIDATION = ("validation", "val", "valid", "dev", "eval_file", "validation_file", "val_data")
_OURS: dict[str, tuple[str, ...]] = {
    "training.learning_rate": _RATE,
    "training.epochs": _EPOCHS,
    "training.batch_size": _BATCH,
    "training.gradient_accumulation": _ACCUMULATION,
    "training.max_length": _LENGTH,
    "training.warmup_ratio": ("warmup_ratio", "warmup", "warmup_steps", "lr_warmup_steps"),
    "training.weight_decay": ("weight_decay", "wd", "decay"),
    "training.max_grad_norm": (
        *("max_grad_norm", "grad_clip", "gradient_clip_val", "clip_grad_norm", "max_norm"),
    ),
    "training.evaluations": ("evaluations", "eval_steps", "eval_interval", "eval_strategy"),
    "training.checkpoints": ("checkpoints", "save_steps", "save_strategy", "save_interval"),
    "training.lr_scheduler": ("lr_scheduler", "scheduler", "schedule", "lr_scheduler_type"),
    "training.early_stopping_patience": ("early_stopping_patience", "patience", "early_stopping"),
    "training.workers": ("workers", "num_processes", "nproc_per_node", "world_size"),
    "training.fsdp": ("fsdp", "fsdp_config", "sharding_strategy", "zero_stage", "deepspeed"),
    "lora.rank": ("rank", "r", "lora_r", "lora_rank", "lora_dim"),
    "lora.alpha": ("alpha", "lora_alpha"),
    "lora.dropout": ("lora_dropout",),
    "lora.target_modules": ("target_modules", "lora_target", "lora_target_modules"),
    "lora.loraplus_ratio": ("loraplus_ratio", "loraplus_lr_ratio", "lora_plus", "loraplus"),
    "sft.neftune_noise_alpha": ("neftune_noise_alpha", "neftune"),
    "model": ("model", "base_model", "model_name", "model_name_or_path", "model_id", "model_path"),
    # Quantization of the base model is a method here.
    "method": (
        *("load_in_4bit", "load_in_8bit", "quantization", "quantization_bit", "method"),
        *("finetuning_type", "peft_method", "adapter", "peft"),
    ),
    "objective": ("objective", "task", "stage", "training_type", "loss", "rl"),
    "output": ("output", "output_dir", "save_dir", "output_path", "out_dir"),
    "seed": ("seed", "random_seed", "random_state", "data_seed"),
    "device": ("device", "device_map", "accelerator"),
    "data.train": _TRAIN,
    "data.validation": _VALIDATION,
    "data.test": ("test", "test_file", "test_data", "test_path", "eval_dataset"),
    "data.system": ("system", "system_prompt", "default_system", "system_message"),
    "data.limit": ("limit", "max_samples", "num_samples", "max_rows", "max_train_samples"),
    "data.split.test": ("test_size", "test_split", "test_ratio"),
    "data.split.validation": ("val_size", "val_set_size", "val_split", "validation_split"),
    "evaluate.max_new_tokens": (
        *("max_new_tokens", "max_tokens", "max_completion_tokens", "max_completion_length"),
    ),
    "dpo.beta": ("beta", "dpo_beta", "pref_beta", "kl_coef"),
    "dpo.loss_type": ("loss_type", "pref_loss", "dpo_loss"),
    "dpo.precompute_reference": ("precompute_ref_log_probs", "precompute_reference"),
    "kto.desirable_weight": ("desirable_weight", "kto_desirable_weight", "kto_chosen_weight"),
    "kto.undesirable_weight": (
        *("undesirable_weight", "kto_undesirable_weight", "kto_rejected_weight"),
    ),
    "grpo.num_generations": ("num_generations", "group_size", "rollouts"),
    "grpo.num_iterations": ("num_iterations", "ppo_epochs", "num_ppo_epochs"),
    "grpo.epsilon": ("epsilon", "cliprange", "clip_ratio", "clip_eps"),
    "prefix.num_virtual_tokens": ("num_virtual_tokens", "prefix_length"),
    "distill.teacher": ("teacher", "teacher_model", "teacher_model_name_or_path"),
    "sweep.space": ("space", "search_space", "hp_space", "hyperparameters"),
    "grpo.reward": ("reward", "reward_funcs", "reward_function", "reward_model", "grader"),
}
_BY_NAME = {name: key for key, names in _OURS.items() for name in names}


def meant_key(key: str, known: Sequence[str]) -> str | None:
    """Return the recipe key that an unknown key most likely means; None if none is similar.

    Args:
        key: the dotted key as the user wrote it, in any section.
        known: the dotted keys of a recipe.
    """
    section, _, last = key.rpartition(".")
    ours = _BY_NAME.get(last.lower().replace("-", "_").strip("_"))
    if ours in known and ours != key:
        return ours
    own = [one for one in known if one.rpartition(".")[0] == section]
    for among in (own, known):
        names = {one.rpartition(".")[2]: one for one in reversed(among)}
        if near := difflib.get_close_matches(last, names, n=1, cutoff=_SIMILARITY):
            return names[near[0]]
    if own:  # a correct section must not make a different key similar
        return None
    return next(iter(difflib.get_close_matches(key, known, n=1, cutoff=_SIMILARITY)), None)
