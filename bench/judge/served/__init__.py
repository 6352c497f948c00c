"""Judge a server that speaks OpenAI's API: the same tokens through its prefill and through its decode steps.

client.py     JSON over HTTP, and what to do where a server answers otherwise
answers.py    the log-probabilities in a completion, in the forms that servers give them
server.py     what one server can be asked: generation, prompt logprobs, one step at a time
semantics.py  what its logprobs mean, asked before the verdict: temperature, top_k, sums, repetitions
rows.py       two paths' logprobs of the same positions as arrays for the judge
subject.py    one server, or two, as a subject (../subjects/__init__.py)
limits.py     what a difference of logprobs can show
"""
