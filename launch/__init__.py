"""Command lines of sine_jax: thin absl apps over the library."""
