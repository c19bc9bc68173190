"""SINE for passive-negative feedback, in JAX and Flax."""
