"""Answers: requests of many clients and adapters in one batch over one set of base weights."""
