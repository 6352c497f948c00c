"""How results are shown: sentences, a table, pictures, and one self-contained page."""
