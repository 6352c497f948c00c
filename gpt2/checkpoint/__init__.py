"""The files of a checkpoint beside its safetensors: pickles, tokenizer, generation settings, and the hub's cache.

The doors are in front: gpt2/weights.py loads a model, gpt2/tokenizer.py its tokenizer, gpt2/hub.py fetches the files.
"""
