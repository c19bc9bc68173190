"""From raw files to the columns of a log, and which part of it is for what."""
