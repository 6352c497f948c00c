"""Tiny random models of every causal LM that transformers has, to judge."""
