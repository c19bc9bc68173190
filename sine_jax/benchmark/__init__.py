"""How fast this machine trains, evaluates and prepares."""
