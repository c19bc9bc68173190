"""In which form layers compute what they compute. Every form gives the same values but for rounding."""

from __future__ import annotations

from typing import NamedTuple


class Forms(NamedTuple):
    """The form of each computation that has several; the plain one unless said otherwise."""

    query_block: int | None = None  # queries that attend together, with the keys up to the last of them; None for all
    chunked_gradients: bool = False  # a kernel's gradient is a sum over chunks of rows, which has no forward mode
    fused_attention: bool = False  # attention is one kernel of the device, for the inputs that it takes


FORMS = {  # by the platform that a program is lowered for
    # A training step of 128 windows of 200, D 64, on 2 Xeon cores, against blocks of 48: all queries at once take 8 %
    # longer, blocks of 24 10 % longer, blocks of 96 4 % less. Medians of 15 steps in turns.
    "cpu": Forms(query_block=48, chunked_gradients=True),
    "cuda": Forms(fused_attention=True),
    "tpu": Forms(),
}


def forms_for(platform: str, attention: str) -> Forms:
    """The forms for a platform.

    Args:
      platform: one of `FORMS`; another one computes everything plainly.
      attention: `model.attention`: as the platform has it (auto), never by its kernel (blocks), or by it (fused).
    """
    forms = FORMS.get(platform, Forms())
    return forms if attention == "auto" else forms._replace(fused_attention=attention == "fused")
