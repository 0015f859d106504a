"""The inference engine: requests of many clients and adapters in one batch over one base model."""
