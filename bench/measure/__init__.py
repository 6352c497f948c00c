"""How a decode is measured: impls and peers, parity, clocks, statistics, machine constants, the cost model."""
