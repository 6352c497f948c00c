"""The checks of the pool contract, scene by scene, and ready-made adapters; the door is contract/pool.py."""
