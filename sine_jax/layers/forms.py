"""How layers compute, by platform. All forms give the same values up to rounding."""

from __future__ import annotations

from typing import NamedTuple


class Forms(NamedTuple):
    """A choice for each computation that has several forms; the defaults are the plain forms."""

    query_block: int | None = None  # the most queries in one product of attention; None for all at once
    chunked_gradients: bool = False  # a kernel's gradient is a sum over chunks of rows; it has no forward mode
    fused_attention: bool = False  # attention uses a kernel of the device, for the inputs that it takes


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
      platform: one of `FORMS`; any other has the plain forms.
      attention: `model.attention`; `blocks` and `fused` overrule the choice of the platform.
    """
    forms = FORMS.get(platform, Forms())
    return forms if attention == "auto" else forms._replace(fused_attention=attention == "fused")
