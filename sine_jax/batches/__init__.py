"""From the columns of a log to training batches."""
