"""What networks are made of: attention, dense maps, dropout, sub-interests, and how states score items."""
