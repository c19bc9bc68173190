"""Tables of methods by seeds."""
