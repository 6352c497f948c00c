"""`python -m kvproof.bench.report`: results of bench/decode.py as sentences, tables, pictures and one HTML page."""
