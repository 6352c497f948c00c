"""How a decode is measured: the impls and peers, parity, clocks, statistics, the cost model that explains."""
