"""Who speaks when: turns, and the voices of a recording."""
