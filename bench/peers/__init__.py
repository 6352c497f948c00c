"""Instructions that other projects' decode kernels execute, counted on the PTX machine."""
