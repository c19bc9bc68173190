"""What networks are made of: attention, dense maps, dropout, sub-interests, and how states score items."""

from sine_jax.layers.attention import Block, SelfAttention, layer_norm
from sine_jax.layers.dense import xavier_normal
from sine_jax.layers.dropout import Dropout
from sine_jax.layers.forms import Forms
from sine_jax.layers.interests import ActiveInterest, Fusion, read_interests
from sine_jax.layers.scoring import Outputs, UserState, of_vector

__all__ = [
    "ActiveInterest",
    "Block",
    "Dropout",
    "Forms",
    "Fusion",
    "Outputs",
    "SelfAttention",
    "UserState",
    "layer_norm",
    "of_vector",
    "read_interests",
    "xavier_normal",
]
