"""Any causal LM of transformers before the judge: its cached decode, over any cache and in any scenario.

checkpoint  a model from a folder or from memory, in any dtype, under any attention
lm          what a model's forward takes and gives: dtypes, positions, padding, its cache or a state of its own
caches      the caches it can decode with, by name
scenarios   how the cached path is fed, by name; play.py has the calls
paged       the paged cache of continuous batching
subject     HuggingFaceSubject: the cached path against each sequence by itself, whole and without a cache
survey      every cache and scenario in one table
"""
