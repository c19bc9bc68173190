"""The networks, one file each: SINE and what it is compared with."""
