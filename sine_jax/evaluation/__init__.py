"""Ranking, its metrics, and what they say of one run or of several."""
