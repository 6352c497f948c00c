"""Triton kernels. Importing this imports neither torch nor triton: `backend` must have its say first."""
